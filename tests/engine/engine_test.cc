// SPDX-License-Identifier: Apache-2.0
// What a request gets from the engine, over the hash model: any wrong page or bound changes the tokens.
#include "engine/engine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <thread>

#include "tests/support/engine_harness.h"
#include "tests/support/status_matchers.h"

namespace farspan {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

TEST(EngineTest, DenseReadsEveryTokenForAnyChunkSize) {
  const std::vector<TokenId> prompt = MakePrompt(333, 1);
  for (int64_t chunk : {1, 7, 64, 128, 512}) {
    EngineHarness harness({.engine = {.max_num_seqs = 1, .max_num_batched_tokens = chunk}});
    const LiveRequest live = harness.Generate(harness.MakeRequest(prompt, 40));
    EXPECT_EQ(live.output->tokens(), ExpectedTokens(prompt, 40)) << "chunk " << chunk;
    EXPECT_EQ(harness.model().num_bad_reads(), 0);
    EXPECT_EQ(live.output->finished()->reason, FinishReason::kLength);
  }
}

TEST(EngineTest, WindowReadsExactlySinksAndWindowAndFreesTheRest) {
  const std::vector<TokenId> prompt = MakePrompt(300, 2);
  for (int64_t chunk : {1, 13, 128, 512}) {
    EngineHarness harness({.engine = {.max_num_seqs = 1, .max_num_batched_tokens = chunk, .poison_freed_pages = true}});
    const LiveRequest live =
        harness.Generate(harness.MakeRequest(prompt, 60, "window { sink_tokens: 3 window_tokens: 37 }"));
    EXPECT_EQ(live.output->tokens(), ExpectedTokens(prompt, 60, WindowOptions{3, 37})) << "chunk " << chunk;
    EXPECT_EQ(harness.model().num_bad_reads(), 0);
    const RequestStatistics& statistics = live.output->finished()->statistics;
    EXPECT_EQ(statistics.logical_tokens, 359);
    EXPECT_EQ(statistics.evicted_tokens + statistics.resident_tokens, 359);
    EXPECT_GE(statistics.resident_tokens, 3 + 36);
    EXPECT_LE(statistics.resident_tokens, 3 + 37 + 3 * 8);
  }
}

TEST(EngineTest, WindowThatCoversTheContextAnswersAsDense) {
  const std::vector<TokenId> prompt = MakePrompt(200, 3);
  EngineHarness harness;
  const LiveRequest dense = harness.Generate(harness.MakeRequest(prompt, 30));
  const LiveRequest window = harness.Generate(harness.MakeRequest(prompt, 30, "window { window_tokens: 230 }"));
  EXPECT_EQ(dense.output->tokens(), window.output->tokens());
  EXPECT_EQ(dense.output->finished()->statistics.decode.read_bytes,
            window.output->finished()->statistics.decode.read_bytes);
}

TEST(EngineTest, MixedBatchEqualsOneAtATime) {
  EngineHarness harness({.engine = {.max_num_seqs = 8, .max_num_batched_tokens = 64}, .num_pages = 400});
  std::vector<LiveRequest> live;
  for (int i = 0; i < 24; ++i) {
    const std::string attention = i % 2 == 0 ? "dense { }" : "window { sink_tokens: 2 window_tokens: 19 }";
    live.push_back(harness.Submit(harness.MakeRequest(MakePrompt(10 + 13 * i, i), 5 + i, attention)));
  }
  harness.StepUntilIdle();
  for (int i = 0; i < 24; ++i) {
    const auto window = i % 2 == 0 ? std::nullopt : std::optional(WindowOptions{2, 19});
    EXPECT_EQ(live[static_cast<size_t>(i)].output->tokens(), ExpectedTokens(MakePrompt(10 + 13 * i, i), 5 + i, window));
  }
  EXPECT_EQ(harness.model().num_bad_reads(), 0);
  EXPECT_EQ(harness.engine().stats().kv_pages_used, 0);
}

TEST(EngineTest, StopTokenEndsAndIsReportedButNotBeforeMinTokens) {
  const std::vector<TokenId> prompt = MakePrompt(20, 5);
  const std::vector<TokenId> expected = ExpectedTokens(prompt, 10);
  EngineHarness harness;
  Request request = harness.MakeRequest(prompt, 10);
  request.stop.stop_token_ids = {expected[2]};
  LiveRequest live = harness.Generate(request);
  const auto first = static_cast<size_t>(std::find(expected.begin(), expected.end(), expected[2]) - expected.begin());
  EXPECT_EQ(live.output->tokens().size(), first + 1);
  EXPECT_EQ(live.output->finished()->reason, FinishReason::kStop);
  EXPECT_EQ(live.output->finished()->stop_token, expected[2]);
  request.stop.min_tokens = 10;
  live = harness.Generate(request);
  EXPECT_EQ(live.output->tokens(), expected);
}

TEST(EngineTest, ForcedTokensAreRunAndScoredInsteadOfDrawn) {
  const std::vector<TokenId> prompt = MakePrompt(20, 6);
  EngineHarness harness;
  Request request = harness.MakeRequest(prompt, 4);
  request.forced_tokens = {9, 8, 7, 6};
  request.logprobs = 3;
  const LiveRequest live = harness.Generate(std::move(request));
  EXPECT_EQ(live.output->tokens(), (std::vector<TokenId>{9, 8, 7, 6}));
  ASSERT_EQ(live.output->logprobs().size(), 4u);
  std::vector<TokenId> context = prompt;
  for (const TokenLogprobs& logprobs : live.output->logprobs()) {
    ASSERT_EQ(logprobs.top.size(), 3u);
    EXPECT_EQ(logprobs.top[0].token, HashModel::NextToken(context));
    context.push_back(logprobs.chosen.token);
  }
}

TEST(EngineTest, PromptLogprobsCoverEveryTokenButTheFirstForAnyChunkSize) {
  const std::vector<TokenId> prompt = MakePrompt(150, 7);
  for (int64_t chunk : {1, 50, 512}) {
    EngineHarness harness({.engine = {.max_num_seqs = 1, .max_num_batched_tokens = chunk}});
    Request request = harness.MakeRequest(prompt, 1);
    request.prompt_logprobs = 1;
    const LiveRequest live = harness.Generate(std::move(request));
    const auto& logprobs = live.output->prompt_logprobs();
    ASSERT_EQ(logprobs.size(), prompt.size() - 1);
    for (size_t i = 0; i < logprobs.size(); ++i) {
      EXPECT_EQ(logprobs[i].chosen.token, prompt[i + 1]);
      const std::vector<TokenId> context(prompt.begin(), prompt.begin() + static_cast<int64_t>(i) + 1);
      EXPECT_EQ(logprobs[i].top[0].token, HashModel::NextToken(context));
    }
    EXPECT_EQ(live.output->prefill_progress().back(), 150);
  }
}

TEST(EngineTest, CancelFreesPagesWithinTwoSteps) {
  EngineHarness harness({.engine = {.max_num_seqs = 4, .max_num_batched_tokens = 32}});
  const LiveRequest decoding = harness.Submit(harness.MakeRequest(MakePrompt(16, 1), 1000));
  const LiveRequest prefilling = harness.Submit(harness.MakeRequest(MakePrompt(900, 2), 10));
  for (int i = 0; i < 4; ++i) harness.engine().TEST_Step();
  ASSERT_GT(harness.engine().stats().kv_pages_used, 0);
  decoding.handle->Cancel();
  prefilling.handle->Cancel();
  harness.engine().TEST_Step();
  EXPECT_EQ(harness.engine().stats().kv_pages_used, 0) << "published with the step that returned the pages";
  EXPECT_EQ(harness.engine().stats().requests_running, 0);
  EXPECT_FALSE(harness.engine().TEST_Step());
  for (const LiveRequest& live : {decoding, prefilling}) {
    EXPECT_EQ(live.output->finished()->reason, FinishReason::kCancelled);
    EXPECT_THAT(live.output->finished()->status, StatusIs(absl::StatusCode::kCancelled, HasSubstr("cancelled")));
  }
  EXPECT_EQ(decoding.output->finished()->phase, RequestPhase::kDecode);
  EXPECT_EQ(prefilling.output->finished()->phase, RequestPhase::kPrefill);
  EXPECT_TRUE(harness.engine().WaitIdle(harness.clock().Now()));
}

TEST(EngineTest, StopStringCancelEndsAsStop) {
  EngineHarness harness;
  const LiveRequest live = harness.Submit(harness.MakeRequest(MakePrompt(16, 1), 1000));
  harness.engine().TEST_Step();
  live.handle->StopSample(0);
  live.handle->Cancel();
  harness.StepUntilIdle();
  EXPECT_EQ(live.output->finished()->reason, FinishReason::kStop);
  EXPECT_THAT(live.output->finished()->status, IsOk());
}

TEST(EngineTest, DeadlinesEndRequestsInEveryPhase) {
  EngineHarness harness({.engine = {.max_num_seqs = 2, .max_num_batched_tokens = 16}});
  const auto submit = [&](int64_t prompt, SteadyDuration after) {
    Request request = harness.MakeRequest(MakePrompt(prompt, 1), 500);
    request.deadline = harness.clock().Now() + after;
    return harness.Submit(std::move(request));
  };
  const LiveRequest decoding = submit(4, milliseconds(50));
  const LiveRequest prefilling = submit(900, milliseconds(50));
  const LiveRequest queued = submit(4, milliseconds(50));
  for (int i = 0; i < 5; ++i) harness.engine().TEST_Step();
  harness.clock().Advance(milliseconds(50));
  harness.engine().TEST_Step();
  EXPECT_EQ(decoding.output->finished()->phase, RequestPhase::kDecode);
  EXPECT_EQ(prefilling.output->finished()->phase, RequestPhase::kPrefill);
  EXPECT_EQ(queued.output->finished()->phase, RequestPhase::kQueued);
  EXPECT_FALSE(queued.output->started().has_value());
  for (const LiveRequest& live : {decoding, prefilling, queued}) {
    EXPECT_EQ(live.output->finished()->reason, FinishReason::kDeadline);
    EXPECT_EQ(live.output->finished()->status.code(), absl::StatusCode::kDeadlineExceeded);
  }
  EXPECT_FALSE(harness.engine().TEST_Step());
}

TEST(EngineTest, RowWithNanLogitsFailsAlone) {
  EngineHarness harness;
  const LiveRequest sick = harness.Submit(harness.MakeRequest(MakePrompt(41, 1), 20));
  const LiveRequest well = harness.Submit(harness.MakeRequest(MakePrompt(10, 2), 20));
  harness.model().PoisonLogitsAt(45);
  harness.StepUntilIdle();
  EXPECT_EQ(sick.output->finished()->status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(sick.output->tokens().size(), 5u);
  EXPECT_EQ(well.output->tokens(), ExpectedTokens(MakePrompt(10, 2), 20));
}

TEST(EngineTest, DeviceFaultEndsEveryRequestAndRefusesNewOnes) {
  EngineHarness harness;
  const LiveRequest first = harness.Submit(harness.MakeRequest(MakePrompt(10, 1), 20));
  harness.engine().TEST_Step();
  const LiveRequest second = harness.Submit(harness.MakeRequest(MakePrompt(10, 2), 20));
  harness.model().FailForwardFrom(0);
  harness.StepUntilIdle();
  for (const LiveRequest& live : {first, second}) {
    EXPECT_THAT(live.output->finished()->status, StatusIs(absl::StatusCode::kUnavailable, HasSubstr("device")));
  }
  EXPECT_FALSE(harness.engine().stats().fault.ok());
  auto refused = harness.engine().Submit(harness.MakeRequest(MakePrompt(4, 1), 1), std::make_shared<RecordingOutput>());
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kUnavailable);
}

TEST(EngineTest, EngineThreadServesManyThreadsWithRandomCancels) {
  EngineHarness harness({.engine = {.max_num_seqs = 8, .max_num_batched_tokens = 48, .max_num_queued_requests = 64}});
  harness.engine().Start();
  std::vector<LiveRequest> live(32);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(static_cast<uint32_t>(t));
      for (int i = 0; i < 8; ++i) {
        LiveRequest& mine = live[static_cast<size_t>(t * 8 + i)];
        mine = harness.Submit(harness.MakeRequest(MakePrompt(5 + 9 * i, t * 8 + i), 30));
        if (random() % 3 == 0) mine.handle->Cancel();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  ASSERT_TRUE(harness.engine().WaitIdle(kNoDeadline));
  EXPECT_EQ(harness.engine().stats().kv_pages_used, 0);
  int completed = 0;
  for (int i = 0; i < 32; ++i) {
    const RecordingOutput& output = *live[static_cast<size_t>(i)].output;
    ASSERT_TRUE(output.finished().has_value());
    const std::vector<TokenId> expected = ExpectedTokens(MakePrompt(5 + 9 * (i % 8), i), 30);
    ASSERT_LE(output.tokens().size(), expected.size());
    EXPECT_TRUE(std::equal(output.tokens().begin(), output.tokens().end(), expected.begin()));
    if (output.finished()->reason == FinishReason::kLength) ++completed;
  }
  EXPECT_GT(completed, 0);
}

TEST(EngineTest, DestructionEndsLiveRequests) {
  LiveRequest live;
  {
    EngineHarness harness;
    live = harness.Submit(harness.MakeRequest(MakePrompt(10, 1), 1000));
    harness.engine().TEST_Step();
  }
  ASSERT_TRUE(live.output->finished().has_value());
  EXPECT_EQ(live.output->finished()->status.code(), absl::StatusCode::kUnavailable);
  live.handle->Cancel();
}

}  // namespace
}  // namespace farspan
