// SPDX-License-Identifier: Apache-2.0
#include "engine/sampling/token_counts.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>
#include <vector>

namespace farspan {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::Truly;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Token 0 unseen, 1 in the prompt, 2 once in the output, 3 in both and three times in the output.
TokenCounts SomeCounts() {
  TokenCounts counts;
  counts.AddPrompt(std::vector<TokenId>{1, 3, 1});
  for (const TokenId token : {2, 3, 3, 3}) counts.AddOutput(token);
  return counts;
}

TEST(TokenCountsTest, RepetitionCountsPromptAndOutputAndNeverRaisesALogit) {
  std::vector<float> positive = {8, 8, 8, 8};
  std::vector<float> negative = {-8, -8, -8, -8};
  SomeCounts().ApplyPenalties({.repetition_penalty = 2}, positive);
  SomeCounts().ApplyPenalties({.repetition_penalty = 2}, negative);
  EXPECT_THAT(positive, ElementsAre(8, 4, 4, 4));
  EXPECT_THAT(negative, ElementsAre(-8, -16, -16, -16));
}

TEST(TokenCountsTest, FrequencyAndPresenceCountTheOutputAlone) {
  std::vector<float> frequency = {8, 8, 8, 8};
  std::vector<float> presence = {8, 8, 8, 8};
  SomeCounts().ApplyPenalties({.frequency_penalty = 0.5}, frequency);
  SomeCounts().ApplyPenalties({.presence_penalty = -1}, presence);
  EXPECT_THAT(frequency, ElementsAre(8, 8, 7.5, 6.5));
  EXPECT_THAT(presence, ElementsAre(8, 8, 9, 9));
}

TEST(TokenCountsTest, RepetitionComesBeforeTheOthers) {
  std::vector<float> logits = {8, 8, 8, 8};
  SomeCounts().ApplyPenalties({.frequency_penalty = 1, .presence_penalty = 0.5, .repetition_penalty = 2}, logits);
  EXPECT_THAT(logits, ElementsAre(8, 4, 2.5, 0.5));
}

TEST(TokenCountsTest, NeutralPenaltiesLeaveEveryBit) {
  std::vector<float> logits = {8, -0.0f, 1e-42f, -3};
  const std::vector<float> before = logits;
  SomeCounts().ApplyPenalties({}, logits);
  EXPECT_EQ(logits, before);
  EXPECT_TRUE(std::signbit(logits[1]));
}

TEST(TokenCountsTest, ExtremePenaltiesKeepFiniteLogitsFinite) {
  for (const double repetition : {std::numeric_limits<double>::denorm_min(), 1e-300, 1e-30, 100.0}) {
    for (const double frequency : {-2.0, 2.0}) {
      std::vector<float> logits = {3.4e38f, 3.4e38f, -3.4e38f, 1e-45f};
      SomeCounts().ApplyPenalties({.frequency_penalty = frequency, .repetition_penalty = repetition}, logits);
      EXPECT_THAT(logits, Each(Truly([](float logit) { return std::isfinite(logit); })));
    }
  }
}

TEST(TokenCountsTest, InfinitiesAndNaNAreNotHidden) {
  std::vector<float> logits = {0, -kInfinity, kInfinity, std::nanf("")};
  SomeCounts().ApplyPenalties({.frequency_penalty = 2, .repetition_penalty = 1e-300}, logits);
  EXPECT_EQ(logits[1], -kInfinity);
  EXPECT_EQ(logits[2], kInfinity);
  EXPECT_TRUE(std::isnan(logits[3]));
}

}  // namespace
}  // namespace farspan
