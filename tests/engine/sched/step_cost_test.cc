// SPDX-License-Identifier: Apache-2.0
#include "engine/sched/step_cost.h"

#include <gtest/gtest.h>

namespace farspan {
namespace {

using std::chrono::milliseconds;

// A device with a fixed cost a step, as real ones have.
SteadyDuration StepTime(int64_t decode_rows, int64_t prefill_tokens, double ms_per_token = 0.02) {
  const double ms = 20 + 0.1 * static_cast<double>(decode_rows) + ms_per_token * static_cast<double>(prefill_tokens);
  return std::chrono::duration_cast<SteadyDuration>(std::chrono::duration<double, std::milli>(ms));
}

TEST(StepCostTest, TellsFixedCostRowsAndTokensApart) {
  StepCost cost;
  for (int i = 0; i < 60; ++i) cost.Observe(StepTime(1 + i % 5, 100 * (i % 7)), 1 + i % 5, 100 * (i % 7));
  // 50 ms less 20 fixed and 3.2 for the rows.
  EXPECT_NEAR(static_cast<double>(cost.PrefillTokensWithin(milliseconds(50), 32)), 1200, 130) << "at most twice 600";
  EXPECT_NEAR(static_cast<double>(cost.PrefillTokensWithin(milliseconds(30), 32)), 340, 5);
}

TEST(StepCostTest, UnderSteadyLoadTheChunkSettlesWhereTheStepMeetsTheLimit) {
  StepCost cost;
  int64_t chunk = 0;
  for (int i = 0; i < 200; ++i) {
    chunk = cost.PrefillTokensWithin(milliseconds(50), 32);
    cost.Observe(StepTime(32, chunk), 32, chunk);
  }
  EXPECT_NEAR(static_cast<double>(chunk), 1340, 70);
}

TEST(StepCostTest, ATinyChunkDoesNotSpoilTheEstimate) {
  StepCost cost;
  for (int i = 0; i < 40; ++i) cost.Observe(StepTime(4, 200 + 50 * (i % 4)), 4, 200 + 50 * (i % 4));
  const int64_t before = cost.PrefillTokensWithin(milliseconds(26), 4);
  cost.Observe(StepTime(4, 1), 4, 1);
  EXPECT_NEAR(static_cast<double>(cost.PrefillTokensWithin(milliseconds(26), 4)), static_cast<double>(before), 10);
}

TEST(StepCostTest, FollowsAPromptThatGetsDeeper) {
  StepCost cost;
  for (int i = 0; i < 40; ++i) cost.Observe(StepTime(4, 100 + i % 9, 0.1), 4, 100 + i % 9);
  for (int i = 0; i < 60; ++i) cost.Observe(StepTime(4, 100 + i % 9, 0.4), 4, 100 + i % 9);
  EXPECT_NEAR(static_cast<double>(cost.PrefillTokensWithin(milliseconds(60), 4)), 99, 15);
}

TEST(StepCostTest, PromptsAdvanceHoweverSlowTheDeviceIs) {
  StepCost cost;
  EXPECT_GE(cost.PrefillTokensWithin(milliseconds(1), 0), StepCost::kLeastTokens) << "before anything is known";
  for (int i = 0; i < 9; ++i) cost.Observe(std::chrono::seconds(10 + i), i, 10 + i);
  EXPECT_EQ(cost.PrefillTokensWithin(milliseconds(1), 8), StepCost::kLeastTokens);
}

}  // namespace
}  // namespace farspan
