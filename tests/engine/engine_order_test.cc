// SPDX-License-Identifier: Apache-2.0
// Who goes first, and who gives way: queue deadlines, tenants, priorities, long prompts beside short ones.
#include <gtest/gtest.h>

#include "tests/support/engine_harness.h"
#include "tests/support/status_matchers.h"

namespace farspan {
namespace {

using std::chrono::seconds;

TEST(EngineOrderTest, ARequestNotBegunInTimeIsGivenUp) {
  EngineHarness harness({.engine = {.max_num_seqs = 1}});
  const LiveRequest running = harness.Submit(harness.MakeRequest(MakePrompt(10, 1), 50));
  harness.engine().TEST_Step();
  Request late = harness.MakeRequest(MakePrompt(10, 2), 5);
  late.queue_deadline = harness.clock().Now() + seconds(2);
  const LiveRequest waiting = harness.Submit(late);
  harness.engine().TEST_Step();
  EXPECT_FALSE(waiting.output->finished().has_value());
  harness.clock().Advance(seconds(2));
  harness.engine().TEST_Step();
  EXPECT_EQ(waiting.output->finished()->reason, FinishReason::kQueueTimeout);
  EXPECT_TRUE(absl::IsResourceExhausted(waiting.output->finished()->status));
  late.queue_deadline = harness.clock().Now() + seconds(2);
  harness.StepUntilIdle();
  const LiveRequest begun = harness.Submit(late);
  harness.engine().TEST_Step();
  harness.clock().Advance(seconds(5));
  harness.StepUntilIdle();
  EXPECT_EQ(begun.output->finished()->reason, FinishReason::kLength) << "begun is begun";
}

TEST(EngineOrderTest, ATenantsShareOfTheQueueIsBounded) {
  EngineHarness harness({.engine = {.max_num_queued_requests = 10, .max_num_queued_requests_per_tenant = 2}});
  const auto submit = [&](const std::string& tenant) {
    Request request = harness.MakeRequest(MakePrompt(4, 1), 1);
    request.tenant = tenant;
    return harness.engine().Submit(std::move(request), std::make_shared<RecordingOutput>()).status();
  };
  EXPECT_THAT(submit("a"), IsOk());
  EXPECT_THAT(submit("a"), IsOk());
  EXPECT_THAT(submit("a"), StatusIs(absl::StatusCode::kResourceExhausted,
                                    ::testing::HasSubstr("tenant's share of the queue is full: 2")));
  EXPECT_THAT(submit("b"), IsOk());
  harness.StepUntilIdle();
  EXPECT_THAT(submit("a"), IsOk());
  harness.StepUntilIdle();
}

TEST(EngineOrderTest, AQuietTenantIsServedBesideABusyOne) {
  EngineHarness harness({.engine = {.max_num_seqs = 2, .max_num_batched_tokens = 32}});
  std::vector<LiveRequest> busy;
  for (int i = 0; i < 20; ++i) {
    Request request = harness.MakeRequest(MakePrompt(30, i), 10);
    request.tenant = "busy";
    busy.push_back(harness.Submit(std::move(request)));
  }
  for (int i = 0; i < 10; ++i) harness.engine().TEST_Step();
  Request request = harness.MakeRequest(MakePrompt(30, 99), 10);
  request.tenant = "quiet";
  const LiveRequest quiet = harness.Submit(std::move(request));
  while (!quiet.output->finished()) harness.engine().TEST_Step();
  int64_t unfinished = 0;
  for (const LiveRequest& live : busy) unfinished += live.output->started() ? 0 : 1;
  EXPECT_GT(unfinished, 12) << "the quiet tenant took the next seat that became free";
  harness.StepUntilIdle();
}

TEST(EngineOrderTest, ABetterPriorityTakesAWorseOnesPlaceAndBothAnswer) {
  EngineHarness harness({.engine = {.max_num_seqs = 1}});
  Request low = harness.MakeRequest(MakePrompt(30, 1), 20);
  low.priority = 5;
  const LiveRequest first = harness.Submit(low);
  for (int i = 0; i < 6; ++i) harness.engine().TEST_Step();
  const LiveRequest urgent = harness.Submit(harness.MakeRequest(MakePrompt(30, 2), 20));
  while (!urgent.output->finished()) harness.engine().TEST_Step();
  EXPECT_FALSE(first.output->finished().has_value());
  harness.StepUntilIdle();
  EXPECT_EQ(first.output->finished()->statistics.preemptions, 1);
  EXPECT_EQ(first.output->tokens(), ExpectedTokens(MakePrompt(30, 1), 20));
  EXPECT_EQ(urgent.output->tokens(), ExpectedTokens(MakePrompt(30, 2), 20));
}

TEST(EngineOrderTest, AShortPromptNeedNotWaitForALongOne) {
  EngineHarness harness({.engine = {.max_num_seqs = 2, .max_num_batched_tokens = 16}, .num_pages = 512});
  harness.Submit(harness.MakeRequest(MakePrompt(3000, 1), 5));
  for (int i = 0; i < 3; ++i) harness.engine().TEST_Step();
  const LiveRequest brief = harness.Submit(harness.MakeRequest(MakePrompt(30, 2), 5));
  for (int i = 0; i < 12; ++i) harness.engine().TEST_Step();
  EXPECT_TRUE(brief.output->finished().has_value());
  harness.StepUntilIdle();
}

TEST(EngineOrderTest, AnUrgentRequestBeginsInTheStepThatPreemptsForIt) {
  EngineHarness harness({.engine = {.max_num_seqs = 2, .max_num_batched_tokens = 16}, .num_pages = 512});
  Request long_one = harness.MakeRequest(MakePrompt(3000, 1), 5);
  long_one.priority = 4;
  harness.Submit(long_one);
  Request decoding = harness.MakeRequest(MakePrompt(4, 2), 40);
  decoding.priority = 5;
  harness.Submit(decoding);
  for (int i = 0; i < 6; ++i) harness.engine().TEST_Step();
  const LiveRequest urgent = harness.Submit(harness.MakeRequest(MakePrompt(4, 3), 4));
  harness.engine().TEST_Step();
  EXPECT_TRUE(urgent.output->started().has_value());
  harness.StepUntilIdle();
}

TEST(EngineOrderTest, WaitingImprovesAPriority) {
  EngineHarness harness({.engine = {.max_num_seqs = 1, .priority_ageing = seconds(10)}});
  const LiveRequest running = harness.Submit(harness.MakeRequest(MakePrompt(10, 1), 3));
  harness.engine().TEST_Step();
  Request low = harness.MakeRequest(MakePrompt(10, 2), 3);
  low.priority = 2;
  const LiveRequest old = harness.Submit(low);
  harness.engine().TEST_Step();
  harness.clock().Advance(seconds(30));
  Request fresh_request = harness.MakeRequest(MakePrompt(10, 3), 3);
  fresh_request.priority = 0;
  const LiveRequest fresh = harness.Submit(fresh_request);
  while (!old.output->started() && !fresh.output->started()) harness.engine().TEST_Step();
  EXPECT_TRUE(old.output->started().has_value()) << "three steps better after 30 s";
  harness.StepUntilIdle();
}

}  // namespace
}  // namespace farspan
