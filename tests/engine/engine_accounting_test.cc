// SPDX-License-Identifier: Apache-2.0
// Queue limits, admission by pages, and exact byte counts.
#include <gtest/gtest.h>

#include "engine/backend/cpu_backend.h"
#include "tests/support/engine_harness.h"
#include "tests/support/status_matchers.h"

namespace farspan {
namespace {

using ::testing::HasSubstr;

absl::Status TrySubmit(EngineHarness& harness, Request request) {
  return harness.engine().Submit(std::move(request), std::make_shared<RecordingOutput>()).status();
}

TEST(EngineAccountingTest, QueueIsBoundedByRequestsAndByTokens) {
  EngineHarness harness({.engine = {.max_num_queued_requests = 3, .max_num_queued_tokens = 100}});
  harness.Submit(harness.MakeRequest(MakePrompt(40, 1), 1));
  harness.Submit(harness.MakeRequest(MakePrompt(60, 2), 1));
  EXPECT_THAT(TrySubmit(harness, harness.MakeRequest(MakePrompt(1, 3), 1)),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("100 prompt tokens wait, at most 100")));
  harness.StepUntilIdle();
  for (int i = 0; i < 3; ++i) harness.Submit(harness.MakeRequest(MakePrompt(2, i), 1));
  EXPECT_THAT(TrySubmit(harness, harness.MakeRequest(MakePrompt(2, 9), 1)),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("3 requests wait")));
  harness.StepUntilIdle();
  EXPECT_EQ(harness.engine().stats().requests_queued, 0);
  EXPECT_EQ(harness.engine().stats().tokens_queued, 0);
}

TEST(EngineAccountingTest, RequestThatCouldNeverFitIsRefusedWithBothNumbers) {
  EngineHarness harness({.num_pages = 10, .page_tokens = 8});
  EXPECT_THAT(
      TrySubmit(harness, harness.MakeRequest(MakePrompt(80, 1), 1)),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("need 11 KV pages under dense { }; this server has 10")));
  EXPECT_THAT(TrySubmit(harness, harness.MakeRequest(MakePrompt(79, 1), 1)), IsOk());
  harness.StepUntilIdle();
}

TEST(EngineAccountingTest, WindowRequestFitsWhereDenseNeverCould) {
  EngineHarness harness(
      {.engine = {.max_num_seqs = 4, .max_num_batched_tokens = 16}, .num_pages = 10, .page_tokens = 8});
  const LiveRequest live =
      harness.Generate(harness.MakeRequest(MakePrompt(400, 1), 20, "window { sink_tokens: 2 window_tokens: 30 }"));
  EXPECT_EQ(live.output->tokens(), ExpectedTokens(MakePrompt(400, 1), 20, WindowOptions{2, 30}));
  EXPECT_LE(live.output->finished()->statistics.peak_resident_bytes, 10 * harness.model().shape().kv_bytes_per_page());
}

TEST(EngineAccountingTest, ASmallRequestMayPassOneThatWaitsForPages) {
  EngineHarness harness(
      {.engine = {.max_num_seqs = 8, .max_num_batched_tokens = 64}, .num_pages = 10, .page_tokens = 8});
  const LiveRequest first = harness.Submit(harness.MakeRequest(MakePrompt(40, 1), 10));
  const LiveRequest second = harness.Submit(harness.MakeRequest(MakePrompt(40, 2), 10));
  const LiveRequest third = harness.Submit(harness.MakeRequest(MakePrompt(2, 3), 2));
  harness.engine().TEST_Step();
  EXPECT_TRUE(first.output->started().has_value());
  EXPECT_FALSE(second.output->started().has_value());
  EXPECT_TRUE(third.output->started().has_value());
  harness.StepUntilIdle();
  EXPECT_EQ(second.output->tokens(), ExpectedTokens(MakePrompt(40, 2), 10));
  EXPECT_EQ(third.output->tokens(), ExpectedTokens(MakePrompt(2, 3), 2));
}

TEST(EngineAccountingTest, DrainingRefusesAndFinishesWhatWasAccepted) {
  EngineHarness harness;
  const LiveRequest live = harness.Submit(harness.MakeRequest(MakePrompt(10, 1), 5));
  harness.engine().BeginDrain();
  EXPECT_THAT(TrySubmit(harness, harness.MakeRequest(MakePrompt(10, 1), 5)),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("draining")));
  harness.StepUntilIdle();
  EXPECT_EQ(live.output->finished()->reason, FinishReason::kLength);
}

TEST(EngineAccountingTest, IdleTimeDoesNotLookLikeLackOfProgress) {
  EngineHarness harness;
  harness.Generate(harness.MakeRequest(MakePrompt(4, 1), 2));
  harness.clock().Advance(std::chrono::hours(5));
  harness.Submit(harness.MakeRequest(MakePrompt(4, 1), 2));
  EXPECT_EQ(harness.engine().stats().last_progress, harness.clock().Now());
  harness.StepUntilIdle();
}

TEST(EngineAccountingTest, BytesReadAreTheTokensOfTheListsOncePerChunkAndDecodeRow) {
  EngineHarness harness({.engine = {.max_num_seqs = 1, .max_num_batched_tokens = 10}});
  const int64_t token_bytes = harness.model().shape().kv_bytes_per_token();
  const RequestStatistics dense =
      harness.Generate(harness.MakeRequest(MakePrompt(25, 1), 4)).output->finished()->statistics;
  EXPECT_EQ(dense.prefill.entries_selected, 10 + 20 + 25);
  EXPECT_EQ(dense.decode.entries_selected, 26 + 27 + 28);
  EXPECT_EQ(dense.prefill.read_bytes, 55 * token_bytes);
  EXPECT_EQ(dense.decode.read_bytes, dense.decode.dense_read_bytes);

  const RequestStatistics window =
      harness.Generate(harness.MakeRequest(MakePrompt(25, 1), 4, "window { sink_tokens: 2 window_tokens: 6 }"))
          .output->finished()
          ->statistics;
  // Chunks [0, 10), [10, 20), [20, 25): 2 sinks, the 5 tokens before the first query, the chunk itself.
  EXPECT_EQ(window.prefill.entries_selected, 10 + (2 + 5 + 10) + (2 + 5 + 5));
  EXPECT_EQ(window.decode.entries_selected, 3 * 8);
  EXPECT_EQ(window.decode.entries_candidate, 26 + 27 + 28);
  EXPECT_EQ(window.decode.dense_read_bytes, dense.decode.read_bytes);
}

TEST(EngineAccountingTest, ConfigurationThatDoesNotFitTheModelIsRefused) {
  const ModelShape shape = HashModel::Shape(8, 64);
  EngineParts parts;
  NullMetricsSink metrics;
  parts.backend = *CpuBackend::Create({.isa = CpuIsa::kPortable});
  parts.model = std::make_unique<HashModel>(shape, 64);
  parts.kv_cache = *KvCache::Create(shape, 4, parts.backend.get());
  parts.metrics = &metrics;
  EXPECT_THAT(Engine::Create({.max_num_batched_tokens = 65}, std::move(parts)),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("at most the 64 rows")));
}

}  // namespace
}  // namespace farspan
