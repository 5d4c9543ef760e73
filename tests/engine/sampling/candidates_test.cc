// SPDX-License-Identifier: Apache-2.0
#include "engine/sampling/candidates.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>

#include "tests/engine/sampling/random_logits.h"

namespace farspan {
namespace {

using ::testing::ElementsAre;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<TokenId> Tokens(const Candidates& candidates) {
  std::vector<TokenId> tokens;
  for (const Candidate& candidate : candidates) tokens.push_back(candidate.token);
  return tokens;
}

Candidates Weighted(const std::vector<float>& logits, double temperature) {
  Candidates candidates = MakeCandidates(logits);
  SetWeights(*std::max_element(logits.begin(), logits.end()), temperature, candidates);
  return candidates;
}

// The obvious order: likeliest first, ties to the lower id.
Candidates Sorted(Candidates candidates) {
  std::stable_sort(candidates.begin(), candidates.end(),
                   [](const Candidate& a, const Candidate& b) { return a.logit > b.logit; });
  return candidates;
}

std::vector<TokenId> FirstTokens(const Candidates& sorted, size_t count) {
  std::vector<TokenId> tokens = Tokens(sorted);
  tokens.resize(count);
  std::sort(tokens.begin(), tokens.end());
  return tokens;
}

// How many of the likeliest reach `top_p`, by summing one after the other.
size_t NaiveTopPCount(const Candidates& sorted, double top_p) {
  double total = 0;
  for (const Candidate& candidate : sorted) total += candidate.weight;
  double sum = 0;
  for (size_t count = 0; count < sorted.size(); ++count) {
    if (sum >= top_p * total) return count;
    sum += sorted[count].weight;
  }
  return sorted.size();
}

TEST(CandidatesTest, LeavesOutImpossibleTokensOnly) {
  const std::vector<float> logits = {0, -kInfinity, -3.4e38f, 5};
  EXPECT_THAT(Tokens(MakeCandidates(logits)), ElementsAre(0, 2, 3));
}

TEST(CandidatesTest, ZerosOfBothSignsTie) {
  Candidates candidates = MakeCandidates(std::vector<float>{-0.0f, 0.0f, -1});
  KeepTopK(1, candidates);
  EXPECT_THAT(Tokens(candidates), ElementsAre(0));
}

TEST(CandidatesTest, TopKEqualsTheHeadOfASort) {
  for (const LogitKind kind : kAllLogitKinds) {
    for (uint32_t seed = 0; seed < 20; ++seed) {
      const Candidates all = MakeCandidates(RandomLogits(kind, 700, seed));
      for (const size_t top_k : {1u, 2u, 3u, 40u, 399u, 699u, 700u, 100'000u}) {
        Candidates kept = all;
        KeepTopK(static_cast<int64_t>(top_k), kept);
        EXPECT_EQ(Tokens(kept), FirstTokens(Sorted(all), std::min(top_k, all.size())));
      }
    }
  }
}

TEST(CandidatesTest, TopPEqualsTheHeadOfASort) {
  constexpr double kRounding = 1e-12;  // sums in another order may move the border by this share
  for (const LogitKind kind : kAllLogitKinds) {
    for (uint32_t seed = 0; seed < 20; ++seed) {
      for (const double temperature : {0.01, 1.0, 100.0}) {
        const Candidates all = Weighted(RandomLogits(kind, 700, seed), temperature);
        const Candidates sorted = Sorted(all);
        for (const double top_p : {1e-320, 1e-9, 0.1, 0.5, 0.9, 0.999, 1 - 0x1p-53, 1.0}) {
          Candidates kept = all;
          KeepTopP(top_p, kept);
          EXPECT_GE(kept.size(), std::max<size_t>(1, NaiveTopPCount(sorted, top_p * (1 - kRounding))));
          EXPECT_LE(kept.size(), NaiveTopPCount(sorted, top_p * (1 + kRounding)));
          EXPECT_EQ(Tokens(kept), FirstTokens(sorted, kept.size()));
        }
      }
    }
  }
}

TEST(CandidatesTest, TopPOfEqualWeightsKeepsTheLowerIds) {
  Candidates candidates = Weighted({2, 2, 2, 2}, 1);
  KeepTopP(0.5, candidates);
  EXPECT_THAT(Tokens(candidates), ElementsAre(0, 1));
}

TEST(CandidatesTest, MinPKeepsWhatIsLikelyEnough) {
  const std::vector<float> logits = {0, std::log(0.5f) - 1e-3f, std::log(0.5f) + 1e-3f, -10};
  Candidates candidates = Weighted(logits, 1);
  KeepMinP(0.5, candidates);
  EXPECT_THAT(Tokens(candidates), ElementsAre(0, 2));
  KeepMinP(1, candidates);
  EXPECT_THAT(Tokens(candidates), ElementsAre(0));
}

TEST(CandidatesTest, DrawWalksTokensInOrderAndSkipsZeroWeights) {
  const Candidates candidates = {
      {.token = 3, .weight = 0}, {.token = 5, .weight = 1}, {.token = 9, .weight = 3}, {.token = 11, .weight = 0}};
  EXPECT_EQ(Draw(0, candidates), 5);
  EXPECT_EQ(Draw(0.2499, candidates), 5);
  EXPECT_EQ(Draw(0.25, candidates), 9);
  EXPECT_EQ(Draw(1 - 0x1p-53, candidates), 9);
}

TEST(CandidatesTest, TheLargestUniformStaysInsideAnySum) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    const Candidates candidates = Weighted(RandomLogits(LogitKind::kNormal, 100, seed), 3);
    EXPECT_EQ(Draw(1 - 0x1p-53, candidates), candidates.back().token);
  }
}

}  // namespace
}  // namespace farspan
