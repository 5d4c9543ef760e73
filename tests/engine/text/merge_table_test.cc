// SPDX-License-Identifier: Apache-2.0
#include "engine/text/merge_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <set>
#include <utility>

namespace farspan {
namespace {

using ::testing::ElementsAre;

struct Merge {
  TokenId left;
  TokenId right;
  TokenId product;
};

// The definition: the lowest rank of the whole word, and the leftmost of that rank, until there is none.
std::vector<TokenId> ApplyNaively(const std::vector<Merge>& merges, std::vector<TokenId> word) {
  while (true) {
    size_t best_rank = merges.size();
    size_t best = 0;
    for (size_t i = 0; i + 1 < word.size(); ++i) {
      for (size_t rank = 0; rank < best_rank; ++rank) {
        if (merges[rank].left != word[i] || merges[rank].right != word[i + 1]) continue;
        best_rank = rank;
        best = i;
      }
    }
    if (best_rank == merges.size()) return word;
    word[best] = merges[best_rank].product;
    word.erase(word.begin() + static_cast<int64_t>(best) + 1);
  }
}

MergeTable MakeTable(const std::vector<Merge>& merges) {
  MergeTable table;
  for (const Merge& merge : merges) EXPECT_TRUE(table.Add(merge.left, merge.right, merge.product));
  return table;
}

TEST(MergeTableTest, RefusesASecondMergeOfOnePair) {
  MergeTable table;
  EXPECT_TRUE(table.Add(1, 2, 3));
  EXPECT_FALSE(table.Add(1, 2, 4));
  std::vector<TokenId> word = {1, 2};
  EXPECT_EQ(table.Apply(word), 1);
  EXPECT_THAT(word, ElementsAre(3));
}

TEST(MergeTableTest, LeavesEmptyAndSingleWordsAlone) {
  const MergeTable table = MakeTable({{1, 1, 2}});
  std::vector<TokenId> word;
  EXPECT_EQ(table.Apply(word), 0);
  word = {1};
  EXPECT_EQ(table.Apply(word), 0);
  EXPECT_THAT(word, ElementsAre(1));
}

// Two merges make the same symbol, the later one further left: its pairs are found last and still come first.
TEST(MergeTableTest, TheLeftmostOfARankComesFirstWheneverItWasFound) {
  const std::vector<Merge> merges = {{1, 2, 10}, {3, 4, 10}, {10, 10, 20}};
  std::vector<TokenId> word = {3, 4, 1, 2, 1, 2};
  word.resize(40, 5);
  const std::vector<TokenId> expected = ApplyNaively(merges, word);
  EXPECT_EQ(expected[0], 20);
  MakeTable(merges).Apply(word);
  EXPECT_EQ(word, expected);
}

// Products are any symbols, also those of the word, so that ranks come and go in every order.
TEST(MergeTableTest, EqualsTheDefinitionForAnyTable) {
  std::mt19937 random(1);
  for (int round = 0; round < 3000; ++round) {
    const size_t num_symbols = 2 + random() % 6;
    const auto symbol = [&] { return static_cast<TokenId>(random() % num_symbols); };
    std::set<std::pair<TokenId, TokenId>> pairs;
    std::vector<Merge> merges;
    for (size_t i = random() % 12; i > 0; --i) {
      const Merge merge = {symbol(), symbol(), symbol()};
      if (pairs.emplace(merge.left, merge.right).second) merges.push_back(merge);
    }
    std::vector<TokenId> word(random() % 80);
    for (TokenId& id : word) id = symbol();
    const std::vector<TokenId> expected = ApplyNaively(merges, word);
    const int64_t size = static_cast<int64_t>(word.size());
    EXPECT_LE(MakeTable(merges).Apply(word), 3 * size);
    ASSERT_EQ(word, expected) << "round " << round;
  }
}

}  // namespace
}  // namespace farspan
