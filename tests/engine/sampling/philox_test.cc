// SPDX-License-Identifier: Apache-2.0
#include "engine/sampling/philox.h"

#include <gtest/gtest.h>

#include <set>

namespace farspan {
namespace {

// The vectors that Random123, the generator's reference, publishes as "philox4x32 10".
TEST(PhiloxTest, MatchesPublishedKnownAnswers) {
  struct KnownAnswer {
    PhiloxCounter counter;
    PhiloxKey key;
    PhiloxCounter words;
  };
  const KnownAnswer known_answers[] = {
      {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
       {0xffffffff, 0xffffffff},
       {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
       {0xa4093822, 0x299f31d0},
       {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
  };
  for (const KnownAnswer& answer : known_answers) EXPECT_EQ(Philox4x32(answer.counter, answer.key), answer.words);
}

TEST(UniformDrawTest, TakesItsBitsFromTheFirstTwoWords) {
  EXPECT_EQ(UniformDraw({}), static_cast<double>(0x6627e8d5e169c58dull >> 11) / 0x1p53);
}

TEST(UniformDrawTest, EveryPartOfTheKeyMatters) {
  std::set<double> draws;
  for (const uint64_t seed : {0ull, 1ull, 1ull << 32, ~0ull}) {
    for (const int64_t position : {0ll, 1ll, 1ll << 32}) {
      for (const int64_t sample_index : {0ll, 1ll, 1ll << 32}) {
        draws.insert(UniformDraw({.seed = seed, .position = position, .sample_index = sample_index}));
      }
    }
  }
  EXPECT_EQ(draws.size(), 4u * 3u * 3u);
}

TEST(UniformDrawTest, FillsTheUnitIntervalEvenly) {
  constexpr int kBins = 64;
  constexpr int kDraws = 64'000;
  int counts[kBins] = {};
  for (int i = 0; i < kDraws; ++i) {
    const double draw = UniformDraw({.seed = 42, .position = i});
    ASSERT_GE(draw, 0);
    ASSERT_LT(draw, 1);
    ++counts[static_cast<int>(draw * kBins)];
  }
  double chi_square = 0;
  for (const int count : counts) chi_square += (count - 1000.0) * (count - 1000.0) / 1000.0;
  // 63 degrees of freedom: 0.01 % quantiles on both sides.
  EXPECT_GT(chi_square, 29);
  EXPECT_LT(chi_square, 114);
}

}  // namespace
}  // namespace farspan
