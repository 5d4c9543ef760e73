// SPDX-License-Identifier: Apache-2.0
#include "engine/sched/step_cost.h"

#include <gtest/gtest.h>

namespace farspan {
namespace {

using std::chrono::milliseconds;

TEST(StepCostTest, LearnsWhatATokenCostsBesideTheDecodes) {
  StepCost cost;
  for (int i = 0; i < 20; ++i) cost.Observe(milliseconds(4), 2, 0);
  for (int i = 0; i < 20; ++i) cost.Observe(milliseconds(104), 2, 100);
  EXPECT_NEAR(static_cast<double>(cost.PrefillTokensWithin(milliseconds(54), 2)), 50, 1);
  EXPECT_NEAR(static_cast<double>(cost.PrefillTokensWithin(milliseconds(54), 12)), 30, 1);
}

TEST(StepCostTest, FollowsAPromptThatGetsDeeper) {
  StepCost cost;
  for (int i = 0; i < 20; ++i) cost.Observe(milliseconds(100), 0, 100);
  for (int i = 0; i < 20; ++i) cost.Observe(milliseconds(400), 0, 100);
  EXPECT_NEAR(static_cast<double>(cost.PrefillTokensWithin(milliseconds(200), 0)), 50, 1);
}

TEST(StepCostTest, PromptsAdvanceHoweverSlowTheDeviceIs) {
  StepCost cost;
  EXPECT_GE(cost.PrefillTokensWithin(milliseconds(1), 0), StepCost::kLeastTokens) << "before anything is known";
  cost.Observe(std::chrono::seconds(10), 0, 10);
  EXPECT_EQ(cost.PrefillTokensWithin(milliseconds(1), 0), StepCost::kLeastTokens);
  cost.Observe(std::chrono::seconds(100), 1, 0);
  EXPECT_EQ(cost.PrefillTokensWithin(milliseconds(1), 8), StepCost::kLeastTokens);
}

}  // namespace
}  // namespace farspan
