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

// The tokens of a prompt at its beginning that fit in a step, however many it may take.
int64_t TokensWithin(const StepCost& cost, SteadyDuration limit, int64_t decode_rows, int64_t depth_tokens = 0) {
  return cost.Budget(limit, decode_rows, 1 << 20).TokensAt(depth_tokens);
}

TEST(StepCostTest, TellsFixedCostRowsAndTokensApart) {
  StepCost cost;
  for (int i = 0; i < 60; ++i) cost.Observe(StepTime(1 + i % 5, 100 * (i % 7)), {1 + i % 5, 100 * (i % 7)});
  // 50 ms less 20 fixed and 3.2 for the rows.
  EXPECT_NEAR(static_cast<double>(TokensWithin(cost, milliseconds(50), 32)), 1200, 130) << "at most twice 600";
  EXPECT_NEAR(static_cast<double>(TokensWithin(cost, milliseconds(30), 32)), 340, 5);
}

TEST(StepCostTest, UnderSteadyLoadTheChunkSettlesWhereTheStepMeetsTheLimit) {
  StepCost cost;
  int64_t chunk = 0;
  for (int i = 0; i < 200; ++i) {
    chunk = TokensWithin(cost, milliseconds(50), 32);
    cost.Observe(StepTime(32, chunk), {32, chunk});
  }
  EXPECT_NEAR(static_cast<double>(chunk), 1340, 70);
}

TEST(StepCostTest, ATinyChunkDoesNotSpoilTheEstimate) {
  StepCost cost;
  for (int i = 0; i < 40; ++i) cost.Observe(StepTime(4, 200 + 50 * (i % 4)), {4, 200 + 50 * (i % 4)});
  const int64_t before = TokensWithin(cost, milliseconds(26), 4);
  cost.Observe(StepTime(4, 1), {4, 1});
  EXPECT_NEAR(static_cast<double>(TokensWithin(cost, milliseconds(26), 4)), static_cast<double>(before), 10);
}

TEST(StepCostTest, FollowsADeviceThatGetsSlower) {
  StepCost cost;
  for (int i = 0; i < 40; ++i) cost.Observe(StepTime(4, 100 + i % 9, 0.1), {4, 100 + i % 9});
  for (int i = 0; i < 60; ++i) cost.Observe(StepTime(4, 100 + i % 9, 0.4), {4, 100 + i % 9});
  EXPECT_NEAR(static_cast<double>(TokensWithin(cost, milliseconds(60), 4)), 99, 15);
}

TEST(StepCostTest, PromptsAdvanceHoweverSlowTheDeviceIs) {
  StepCost cost;
  EXPECT_GE(TokensWithin(cost, milliseconds(1), 0), StepCost::kLeastTokens) << "before anything is known";
  for (int i = 0; i < 9; ++i) cost.Observe(std::chrono::seconds(10 + i), {i, 10 + i});
  EXPECT_EQ(TokensWithin(cost, milliseconds(1), 8), StepCost::kLeastTokens);
}

// A GPU: 4 ms for the weights, 20 us a row, 20 us a prompt token and 1 ns for each token that one reads.
class GpuStepCostTest : public ::testing::Test {
 protected:
  // A chunk of a prompt, of which `depth` tokens are behind it.
  void Observe(int64_t decode_rows, int64_t tokens, int64_t depth) {
    const int64_t reads = tokens * depth + tokens * tokens / 2;
    const double us = 4000 + 20.0 * static_cast<double>(decode_rows + tokens) + 1e-3 * static_cast<double>(reads);
    cost_.Observe(std::chrono::duration_cast<SteadyDuration>(std::chrono::duration<double, std::micro>(us)),
                  {.decode_rows = decode_rows, .prefill_tokens = tokens, .prefill_reads = reads});
  }
  StepCost cost_;
};

TEST_F(GpuStepCostTest, ADeepPromptGetsAsManyTokensAsItsDepthAllows) {
  for (int i = 0; i < 60; ++i) Observe(10 + i % 7, 300 + 40 * (i % 5), 20'000 * (i % 6));
  // 20 ms less 4 fixed and 0.2 for the rows are 15.8: n tokens at depth d take 20 n us and n (d + n / 2) ns.
  EXPECT_NEAR(static_cast<double>(TokensWithin(cost_, milliseconds(20), 10, 0)), 775, 8);
  EXPECT_NEAR(static_cast<double>(TokensWithin(cost_, milliseconds(20), 10, 20'000)), 391, 8);
  EXPECT_NEAR(static_cast<double>(TokensWithin(cost_, milliseconds(20), 10, 100'000)), 131, 4);
}

TEST_F(GpuStepCostTest, WhatOnePromptTakesIsNoOthersAnyMore) {
  for (int i = 0; i < 60; ++i) Observe(10 + i % 7, 300 + 40 * (i % 5), 20'000 * (i % 6));
  ChunkBudget budget = cost_.Budget(milliseconds(20), 10, 1 << 20);
  budget.Take(budget.TokensAt(100'000) / 2, 100'000);
  EXPECT_NEAR(static_cast<double>(budget.TokensAt(0)), 391, 12);
  budget.Take(budget.TokensAt(0), 0);
  EXPECT_TRUE(budget.empty() || budget.TokensAt(0) <= 2);
}

TEST_F(GpuStepCostTest, StepsOfLessThanAMillisecondAreToldApart) {
  for (int i = 0; i < 60; ++i) {
    const int64_t rows = 1 + i % 5, tokens = 16 * (i % 9);
    cost_.Observe(std::chrono::microseconds(300 + 5 * rows + tokens), {.decode_rows = rows, .prefill_tokens = tokens});
  }
  EXPECT_NEAR(static_cast<double>(TokensWithin(cost_, std::chrono::microseconds(500), 8)), 160, 4);
}

TEST_F(GpuStepCostTest, APromptThatGetsDeeperStaysWithinTheLimit) {
  int64_t depth = 0;
  for (int step = 0; step < 400; ++step) {
    const int64_t tokens = TokensWithin(cost_, milliseconds(20), 8, depth);
    Observe(8, tokens, depth);
    const double ms =
        4.16 + 0.02 * static_cast<double>(tokens) +
        1e-6 * static_cast<double>(tokens) * (static_cast<double>(depth) + static_cast<double>(tokens) / 2);
    SCOPED_TRACE(testing::Message() << "step " << step << " at " << depth);
    EXPECT_LE(ms, tokens > StepCost::kLeastTokens ? 23 : 100);
    EXPECT_GE(ms, step > 20 ? 16 : 0);
    depth += tokens;
  }
  EXPECT_GT(depth, 60'000);
}

}  // namespace
}  // namespace farspan
