// SPDX-License-Identifier: Apache-2.0
// Requests that get in each other's way or help each other: preemption, shared prefixes, samples.
// The hash model makes any page that is mixed up a wrong token.
#include <gtest/gtest.h>

#include <random>

#include "tests/support/engine_harness.h"
#include "tests/support/status_matchers.h"

namespace farspan {
namespace {

constexpr char kWindow[] = "window { sink_tokens: 3 window_tokens: 21 }";
constexpr WindowOptions kWindowOptions = {3, 21};

Request WithoutCache(Request request) {
  request.use_prefix_cache = false;
  return request;
}

// A pool that holds a quarter of what the requests want.
HarnessOptions TightPool() {
  return {.engine = {.max_num_seqs = 8, .max_num_batched_tokens = 32, .poison_freed_pages = true},
          .num_pages = 24,
          .page_tokens = 4};
}

TEST(EngineSharingTest, PreemptionNeverChangesTheOutput) {
  EngineHarness harness(TightPool());
  std::vector<LiveRequest> requests;
  for (int i = 0; i < 8; ++i) {
    const bool window = i % 3 == 2;
    requests.push_back(harness.Submit(
        WithoutCache(harness.MakeRequest(MakePrompt(10 + 3 * i, i), 40, window ? kWindow : "dense { }"))));
  }
  harness.StepUntilIdle();
  int64_t preemptions = 0;
  for (int i = 0; i < 8; ++i) {
    const auto expected =
        ExpectedTokens(MakePrompt(10 + 3 * i, i), 40, i % 3 == 2 ? std::optional(kWindowOptions) : std::nullopt);
    EXPECT_EQ(requests[static_cast<size_t>(i)].output->tokens(), expected) << "request " << i;
    preemptions += requests[static_cast<size_t>(i)].output->finished()->statistics.preemptions;
  }
  EXPECT_GT(preemptions, 3) << "the pool is too large for this test";
  EXPECT_EQ(harness.engine().stats().kv_pages_used, 0);
}

TEST(EngineSharingTest, PreemptionKeepsSamplingPenaltiesAndLogprobsAndReportsThePromptOnce) {
  const auto run = [](int64_t num_pages) {
    HarnessOptions options = TightPool();
    options.num_pages = num_pages;
    EngineHarness harness(options);
    std::vector<LiveRequest> requests;
    for (int i = 0; i < 6; ++i) {
      Request request = WithoutCache(harness.MakeRequest(MakePrompt(12 + i, i), 30));
      request.sampling = {.temperature = 0.9, .repetition_penalty = 1.3, .seed = static_cast<uint64_t>(i)};
      request.logprobs = 2;
      request.prompt_logprobs = 1;
      requests.push_back(harness.Submit(std::move(request)));
    }
    harness.StepUntilIdle();
    return requests;
  };
  const std::vector<LiveRequest> roomy = run(400), tight = run(24);
  int64_t preemptions = 0;
  for (size_t i = 0; i < roomy.size(); ++i) {
    const RecordingOutput& a = *roomy[i].output;
    const RecordingOutput& b = *tight[i].output;
    EXPECT_EQ(a.tokens(), b.tokens());
    ASSERT_EQ(a.logprobs().size(), b.logprobs().size());
    for (size_t t = 0; t < a.logprobs().size(); ++t)
      EXPECT_EQ(a.logprobs()[t].chosen.logprob, b.logprobs()[t].chosen.logprob);
    EXPECT_EQ(a.prompt_logprobs().size(), b.prompt_logprobs().size());
    EXPECT_EQ(b.prompt_logprobs().size(), 11 + i);
    preemptions += b.finished()->statistics.preemptions;
    EXPECT_TRUE(std::is_sorted(b.prefill_progress().begin(), b.prefill_progress().end()));
  }
  EXPECT_GT(preemptions, 0);
}

TEST(EngineSharingTest, ASecondPromptStartsFromTheCachedPagesOfTheFirst) {
  EngineHarness harness({.engine = {.max_num_batched_tokens = 64}, .page_tokens = 8});
  std::vector<TokenId> prompt = MakePrompt(100, 1);
  EXPECT_EQ(harness.Generate(harness.MakeRequest(prompt, 4)).output->finished()->statistics.cached_prompt_tokens, 0);
  EXPECT_EQ(harness.engine().stats().kv_pages_used, 0);
  EXPECT_EQ(harness.engine().stats().kv_pages_cached, 12);
  prompt.resize(90);
  prompt.push_back(7);
  const LiveRequest second = harness.Generate(harness.MakeRequest(prompt, 6));
  EXPECT_EQ(second.output->tokens(), ExpectedTokens(prompt, 6));
  EXPECT_EQ(second.output->started()->cached_prompt_tokens, 88);
  EXPECT_EQ(second.output->finished()->statistics.cached_prompt_tokens, 88);
}

TEST(EngineSharingTest, TheLastPromptTokenIsAlwaysComputed) {
  EngineHarness harness({.page_tokens = 8});
  harness.Generate(harness.MakeRequest(MakePrompt(64, 1), 1));
  const LiveRequest again = harness.Generate(harness.MakeRequest(MakePrompt(64, 1), 3));
  EXPECT_EQ(again.output->finished()->statistics.cached_prompt_tokens, 56);
  EXPECT_EQ(again.output->tokens(), ExpectedTokens(MakePrompt(64, 1), 3));
}

TEST(EngineSharingTest, OnlyTheSameTenantPolicyAndPhaseShare) {
  EngineHarness harness({.page_tokens = 8});
  const auto cached = [&](const std::string& tenant, const std::string& attention, std::vector<TokenId> prompt) {
    Request request = harness.MakeRequest(std::move(prompt), 24, attention);
    request.tenant = tenant;
    const LiveRequest live = harness.Generate(std::move(request));
    return live.output->finished()->statistics.cached_prompt_tokens;
  };
  const std::vector<TokenId> prompt = MakePrompt(41, 1);
  EXPECT_EQ(cached("a", "dense { }", prompt), 0);
  EXPECT_EQ(cached("a", "dense { }", prompt), 40);
  EXPECT_EQ(cached("b", "dense { }", prompt), 0) << "another tenant";
  EXPECT_EQ(cached("a", kWindow, prompt), 0) << "another fingerprint";
  EXPECT_EQ(cached("a", kWindow, prompt), 40) << "all of the prompt was published before its first drop";
  std::vector<TokenId> longer = prompt;
  for (const TokenId token : ExpectedTokens(prompt, 24)) longer.push_back(token);
  EXPECT_EQ(cached("a", "dense { }", longer), 40) << "decoded pages have other bits than a prompt's";
}

TEST(EngineSharingTest, BypassNeitherReadsNorFeedsTheCache) {
  EngineHarness harness({.page_tokens = 8});
  harness.Generate(WithoutCache(harness.MakeRequest(MakePrompt(40, 1), 2)));
  EXPECT_EQ(harness.engine().stats().kv_pages_cached, 0);
  harness.Generate(harness.MakeRequest(MakePrompt(40, 1), 2));
  EXPECT_EQ(harness.Generate(WithoutCache(harness.MakeRequest(MakePrompt(40, 1), 2)))
                .output->finished()
                ->statistics.cached_prompt_tokens,
            0);
  Request scored = harness.MakeRequest(MakePrompt(40, 1), 2);
  scored.prompt_logprobs = 0;
  const LiveRequest live = harness.Generate(std::move(scored));
  EXPECT_EQ(live.output->finished()->statistics.cached_prompt_tokens, 0) << "every prompt token needs its logits";
  EXPECT_EQ(live.output->prompt_logprobs().size(), 39u);
}

TEST(EngineSharingTest, CachedPagesMakeRoomForNewRequests) {
  EngineHarness harness({.num_pages = 16, .page_tokens = 8});
  for (int salt = 0; salt < 6; ++salt) {
    const LiveRequest live = harness.Generate(harness.MakeRequest(MakePrompt(100, salt), 8));
    EXPECT_EQ(live.output->tokens(), ExpectedTokens(MakePrompt(100, salt), 8));
  }
  EXPECT_GT(harness.Generate(harness.MakeRequest(MakePrompt(100, 5), 1)).output->started()->cached_prompt_tokens, 90);
  EXPECT_EQ(harness.Generate(harness.MakeRequest(MakePrompt(100, 0), 1)).output->started()->cached_prompt_tokens, 0)
      << "the oldest went first";
}

// A page that the prompt ends in holds other bits when the rest of it was decoded than when it was prompt too.
TEST(EngineSharingTest, PagesAcrossThePromptsEndServeOnlyPromptsThatEndThere) {
  for (const std::string attention :
       {"dense { }", "quest { budget_tokens: 64 sink_tokens: 0 recent_tokens: 16 dense_layers: 0 }"}) {
    const auto answer = [&](bool after_another) {
      EngineHarness harness({.page_tokens = 16});
      const std::vector<TokenId> prompt = MakePrompt(200, 3);
      Request first = harness.MakeRequest(prompt, 60, attention);
      const std::vector<TokenId> generated = harness.Generate(WithoutCache(first)).output->tokens();
      if (after_another) harness.Submit(first);
      std::vector<TokenId> longer = prompt;
      longer.insert(longer.end(), generated.begin(), generated.begin() + 4);
      Request second = harness.MakeRequest(longer, 56, attention);
      second.forced_tokens.assign(generated.begin() + 4, generated.end());
      second.logprobs = 1;
      const LiveRequest live = harness.Submit(std::move(second));
      harness.StepUntilIdle();
      std::vector<float> logprobs;
      for (const TokenLogprobs& token : live.output->logprobs()) logprobs.push_back(token.chosen.logprob);
      return logprobs;
    };
    EXPECT_EQ(answer(true), answer(false)) << attention;
  }
}

TEST(EngineSharingTest, SamplesShareThePromptAndDrawTheirOwnTokens) {
  for (const std::string attention : {"dense { }", kWindow}) {
    for (const int64_t prompt_tokens : {7, 8, 61}) {
      EngineHarness harness(
          {.engine = {.max_num_seqs = 8, .max_num_batched_tokens = 16, .poison_freed_pages = true}, .page_tokens = 8});
      Request request = WithoutCache(harness.MakeRequest(MakePrompt(prompt_tokens, 1), 30, attention));
      request.num_samples = 4;
      const LiveRequest greedy = harness.Generate(request);
      ASSERT_TRUE(greedy.output->finished().has_value());
      const auto expected = ExpectedTokens(MakePrompt(prompt_tokens, 1), 30,
                                           attention == kWindow ? std::optional(kWindowOptions) : std::nullopt);
      for (int sample = 0; sample < 4; ++sample) EXPECT_EQ(greedy.output->tokens(sample), expected) << sample;
      EXPECT_EQ(greedy.output->finished()->samples.size(), 4u);
      EXPECT_EQ(greedy.output->finished()->statistics.generated_tokens, 120);
      EXPECT_EQ(greedy.output->finished()->statistics.prompt_tokens, prompt_tokens);
      EXPECT_EQ(greedy.output->finished()->statistics.logical_tokens, prompt_tokens + 4 * 29);
      EXPECT_EQ(greedy.output->prefill_progress().back(), prompt_tokens);
      EXPECT_EQ(harness.engine().stats().kv_pages_used, 0);

      request.sampling = {.temperature = 1, .seed = 3};
      const LiveRequest drawn = harness.Generate(request);
      EXPECT_NE(drawn.output->tokens(0), drawn.output->tokens(1));
      request.num_samples = 1;
      EXPECT_EQ(harness.Generate(request).output->tokens(0), drawn.output->tokens(0)) << "alone or with others";
    }
  }
}

TEST(EngineSharingTest, ForkingCostsACopyOfOnePageASample) {
  EngineHarness harness({.num_pages = 20, .page_tokens = 8});
  Request request = WithoutCache(harness.MakeRequest(MakePrompt(100, 1), 3));
  request.num_samples = 4;
  const LiveRequest live = harness.Submit(std::move(request));
  harness.engine().TEST_Step();
  harness.engine().TEST_Step();
  EXPECT_EQ(harness.engine().stats().kv_pages_used, 13 + 3) << "13 pages of prompt, not 52";
  harness.StepUntilIdle();
  EXPECT_EQ(live.output->finished()->reason, FinishReason::kLength);
  EXPECT_EQ(live.output->finished()->statistics.peak_resident_bytes,
            (13 + 3) * harness.model().shape().kv_bytes_per_page());
}

TEST(EngineSharingTest, OneSampleMayStopWhileOthersGoOn) {
  EngineHarness harness;
  Request request = harness.MakeRequest(MakePrompt(20, 1), 12);
  request.num_samples = 3;
  const LiveRequest live = harness.Submit(std::move(request));
  for (int i = 0; i < 5; ++i) harness.engine().TEST_Step();
  live.handle->StopSample(1);
  harness.StepUntilIdle();
  const FinishedEvent& finished = *live.output->finished();
  ASSERT_EQ(finished.samples.size(), 3u);
  EXPECT_EQ(finished.samples[0].reason, FinishReason::kLength);
  EXPECT_EQ(finished.samples[1].reason, FinishReason::kStop);
  EXPECT_LT(finished.samples[1].generated_tokens, 12);
  EXPECT_EQ(finished.samples[2].generated_tokens, 12);
}

TEST(EngineSharingTest, CancellingOrFailingEndsEverySample) {
  EngineHarness harness;
  Request request = harness.MakeRequest(MakePrompt(20, 1), 12);
  request.num_samples = 8;
  const LiveRequest cancelled = harness.Submit(request);
  for (int i = 0; i < 3; ++i) harness.engine().TEST_Step();
  cancelled.handle->Cancel();
  harness.StepUntilIdle();
  EXPECT_EQ(cancelled.output->finished()->reason, FinishReason::kCancelled);
  EXPECT_EQ(harness.engine().stats().kv_pages_used, 0);
  harness.model().PoisonLogitsAt(25);
  const LiveRequest failed = harness.Generate(request);
  EXPECT_EQ(failed.output->finished()->reason, FinishReason::kError);
  EXPECT_TRUE(failed.output->finished()->samples.empty());
}

TEST(EngineSharingTest, SamplesInATightPoolStillAgree) {
  EngineHarness harness(TightPool());
  std::vector<LiveRequest> requests;
  for (int i = 0; i < 4; ++i) {
    Request request = harness.MakeRequest(MakePrompt(14 + i, i), 30, i % 2 == 0 ? "dense { }" : kWindow);
    request.num_samples = 3;
    requests.push_back(harness.Submit(std::move(request)));
  }
  harness.StepUntilIdle();
  for (int i = 0; i < 4; ++i) {
    const auto expected =
        ExpectedTokens(MakePrompt(14 + i, i), 30, i % 2 == 0 ? std::nullopt : std::optional(kWindowOptions));
    for (int sample = 0; sample < 3; ++sample) {
      EXPECT_EQ(requests[static_cast<size_t>(i)].output->tokens(sample), expected) << i << " " << sample;
    }
  }
}

TEST(EngineSharingTest, APreemptedSampleThatIsForkedAgainLeavesTheQueueOnce) {
  const auto run = [](int64_t num_pages) {
    HarnessOptions options = TightPool();
    options.num_pages = num_pages;
    EngineHarness harness(options);
    Request request = harness.MakeRequest(MakePrompt(14, 1), 60);
    request.num_samples = 8;
    request.sampling = {.temperature = 1, .seed = 3};
    const LiveRequest live = harness.Generate(std::move(request));
    EXPECT_EQ(live.output->finished()->statistics.preemptions > 0, num_pages < 100) << num_pages;
    EXPECT_EQ(harness.engine().stats().requests_queued, 0);
    return live.output;
  };
  const auto tight = run(24), ample = run(1000);
  for (int sample = 0; sample < 8; ++sample) EXPECT_EQ(tight->tokens(sample), ample->tokens(sample)) << sample;
}

TEST(EngineSharingTest, AStepWithoutMemoryCostsOneRequestAndTheOthersGoOn) {
  EngineHarness harness;
  std::vector<LiveRequest> requests;
  for (int i = 0; i < 4; ++i) requests.push_back(harness.Submit(harness.MakeRequest(MakePrompt(20 + i, i), 12)));
  for (int i = 0; i < 3; ++i) harness.engine().TEST_Step();
  harness.model().ExhaustMemoryFor(2);
  harness.StepUntilIdle();
  for (int i = 0; i < 4; ++i) {
    const RecordingOutput& output = *requests[static_cast<size_t>(i)].output;
    if (i < 2) {
      EXPECT_EQ(output.tokens(), ExpectedTokens(MakePrompt(20 + i, i), 12));
    } else {
      EXPECT_EQ(output.finished()->reason, FinishReason::kError);
      EXPECT_TRUE(absl::IsResourceExhausted(output.finished()->status)) << output.finished()->status;
    }
  }
  EXPECT_EQ(harness.engine().stats().kv_pages_used, 0);
  EXPECT_THAT(harness.engine().stats().fault, IsOk());
}

}  // namespace
}  // namespace farspan
