// SPDX-License-Identifier: Apache-2.0
// One step ahead: a model that answers one step late gives every request what it gets from one that is waited for.
#include <gtest/gtest.h>

#include <functional>

#include "tests/support/engine_harness.h"
#include "tests/support/status_matchers.h"

namespace farspan {
namespace {

using std::chrono::milliseconds;

// Keeps the steps.
class StepList final : public MetricsSink {
 public:
  const std::vector<StepEvent>& steps() const { return steps_; }
  int64_t num_overrun_rows() const {
    int64_t rows = 0;
    for (const StepEvent& step : steps_) rows += step.overrun_rows;
    return rows;
  }

  void OnStep(const StepEvent& event) override { steps_.push_back(event); }
  void OnTraffic(const TrafficEvent&) override {}
  void OnToken(const TokenEvent&) override {}
  void OnRequestFinished(const RequestFinishedEvent&) override {}
  void OnPreempted(std::string_view) override {}
  void OnPrefixLookup(const PrefixLookupEvent&) override {}
  void OnGauges(const EngineGauges&) override {}

 private:
  std::vector<StepEvent> steps_;
};

// Tells the test of every token, and keeps all events.
class ActingOutput final : public OutputSink {
 public:
  explicit ActingOutput(std::function<void(const NewTokensEvent&)> act) : act_(std::move(act)) {}
  void OnEvent(OutputEvent event) override {
    output.OnEvent(event);
    if (const auto* tokens = std::get_if<NewTokensEvent>(&event)) act_(*tokens);
  }
  RecordingOutput output;

 private:
  const std::function<void(const NewTokensEvent&)> act_;
};

HarnessOptions Late(int64_t max_steps_in_flight, MetricsSink* metrics = nullptr) {
  HarnessOptions options;
  options.engine.max_steps_in_flight = max_steps_in_flight;
  options.answers_late = true;
  options.metrics = metrics;
  return options;
}

bool SameTraffic(const AttentionTraffic& a, const AttentionTraffic& b) {
  return a.entries_selected == b.entries_selected && a.entries_candidate == b.entries_candidate &&
         a.read_bytes == b.read_bytes && a.dense_read_bytes == b.dense_read_bytes &&
         a.side_read_bytes == b.side_read_bytes;
}

void ExpectSameAnswer(const RecordingOutput& ahead, const RecordingOutput& waiting, int num_samples) {
  const FinishedEvent &got = *ahead.finished(), &expected = *waiting.finished();
  EXPECT_EQ(got.reason, expected.reason);
  EXPECT_EQ(got.stop_token, expected.stop_token);
  EXPECT_EQ(got.statistics.generated_tokens, expected.statistics.generated_tokens);
  EXPECT_EQ(got.statistics.logical_tokens, expected.statistics.logical_tokens);
  EXPECT_TRUE(SameTraffic(got.statistics.decode, expected.statistics.decode));
  for (int sample = 0; sample < num_samples; ++sample) {
    EXPECT_EQ(ahead.tokens(sample), waiting.tokens(sample)) << "sample " << sample;
    ASSERT_EQ(ahead.logprobs(sample).size(), waiting.logprobs(sample).size());
    for (size_t i = 0; i < ahead.logprobs(sample).size(); ++i) {
      EXPECT_EQ(ahead.logprobs(sample)[i].chosen.logprob, waiting.logprobs(sample)[i].chosen.logprob);
    }
  }
}

Request RequestNumber(int i, EngineHarness* harness) {
  const char* const policies[] = {"dense { }", "window { sink_tokens: 2 window_tokens: 20 }",
                                  "quest { budget_tokens: 56 block_tokens: 16 sink_tokens: 16 recent_tokens: 8 }"};
  Request request = harness->MakeRequest(MakePrompt(3 + 11 * i % 90, i), 5 + 7 * i % 40, policies[i % 3]);
  if (i % 4 == 1) request.sampling = {.temperature = 0.9, .seed = static_cast<uint64_t>(i)};
  if (i % 5 == 2) request.sampling.repetition_penalty = 1.2;
  if (i % 5 == 3) request.logprobs = 2;
  if (i % 7 == 4) request.num_samples = 3;
  if (i % 7 == 5) request.prompt_logprobs = 1;
  if (i % 6 == 5 && request.num_samples == 1) request.forced_tokens = MakePrompt(request.stop.max_tokens, i + 1);
  for (TokenId token = 40; i % 3 == 1 && token < 70; token += 2) request.stop.stop_token_ids.push_back(token);
  return request;
}

TEST(EngineAheadTest, EveryRequestIsAnsweredAsWhereStepsAreWaitedFor) {
  constexpr int kRequests = 60;
  std::vector<std::vector<LiveRequest>> answers;
  StepList steps;
  for (const int64_t depth : {1, 2}) {
    HarnessOptions options = Late(depth, depth == 2 ? &steps : nullptr);
    options.engine.max_num_seqs = 8;
    options.engine.max_num_batched_tokens = 48;
    options.num_pages = 1024;
    EngineHarness harness(options);
    std::vector<LiveRequest>& live = answers.emplace_back();
    for (int i = 0; i < kRequests; ++i) live.push_back(harness.Submit(RequestNumber(i, &harness)));
    harness.StepUntilIdle();
    EXPECT_EQ(harness.model().num_bad_reads(), 0);
    EXPECT_EQ(harness.engine().stats().kv_pages_used, 0);
  }
  EngineHarness harness;
  for (int i = 0; i < kRequests; ++i) {
    SCOPED_TRACE(i);
    ASSERT_TRUE(answers[1][static_cast<size_t>(i)].output->finished().has_value());
    ExpectSameAnswer(*answers[1][static_cast<size_t>(i)].output, *answers[0][static_cast<size_t>(i)].output,
                     RequestNumber(i, &harness).num_samples);
  }
  EXPECT_GT(steps.num_overrun_rows(), 0);
}

TEST(EngineAheadTest, TheRowBehindAStopTokenIsNobodys) {
  const std::vector<TokenId> expected = ExpectedTokens(MakePrompt(20, 3), 6);
  StepList steps;
  EngineHarness harness(Late(2, &steps));
  Request request = harness.MakeRequest(MakePrompt(20, 3), 30);
  request.stop.stop_token_ids = {expected.back()};
  request.stop.min_tokens = 6;
  const LiveRequest live = harness.Generate(request);
  EXPECT_EQ(live.output->tokens(), expected);
  EXPECT_EQ(live.output->finished()->reason, FinishReason::kStop);
  EXPECT_EQ(live.output->finished()->statistics.generated_tokens, 6);
  EXPECT_EQ(steps.num_overrun_rows(), 1);
  EXPECT_EQ(harness.engine().stats().kv_pages_used, 0);
}

TEST(EngineAheadTest, NothingRunsBehindTheLastTokenByNumber) {
  for (const int64_t max_tokens : {1, 2, 9}) {
    StepList steps;
    EngineHarness harness(Late(2, &steps));
    const LiveRequest live = harness.Generate(harness.MakeRequest(MakePrompt(20, 3), max_tokens));
    EXPECT_EQ(live.output->tokens(), ExpectedTokens(MakePrompt(20, 3), max_tokens));
    EXPECT_EQ(std::ssize(steps.steps()), max_tokens);
    EXPECT_EQ(steps.num_overrun_rows(), 0);
  }
}

TEST(EngineAheadTest, ACancelOrAStopStringIsTheEndWhereverItComes) {
  for (const bool cancels : {true, false}) {
    for (int64_t at = 1; at < 12; ++at) {
      StepList steps;
      EngineHarness harness(Late(2, &steps));
      // Beside it another one goes on.
      const LiveRequest other = harness.Submit(harness.MakeRequest(MakePrompt(9, 5), 25));
      std::shared_ptr<RequestHandle> handle;
      int64_t num_tokens = 0;
      const auto output = std::make_shared<ActingOutput>([&](const NewTokensEvent&) {
        if (++num_tokens < at) return;
        cancels ? handle->Cancel() : handle->StopSample(0);
      });
      handle = *harness.engine().Submit(harness.MakeRequest(MakePrompt(20, 3), 30), output);
      harness.StepUntilIdle();
      EXPECT_EQ(output->output.tokens(), ExpectedTokens(MakePrompt(20, 3), at));
      EXPECT_EQ(output->output.finished()->statistics.generated_tokens, at);
      EXPECT_EQ(output->output.finished()->reason, cancels ? FinishReason::kCancelled : FinishReason::kStop);
      EXPECT_EQ(other.output->tokens(), ExpectedTokens(MakePrompt(9, 5), 25));
      EXPECT_EQ(steps.num_overrun_rows(), 1);
    }
  }
}

TEST(EngineAheadTest, AStepWithoutMemoryTakesTheOneBehindItAlong) {
  for (int64_t at = 1; at < 20; ++at) {
    EngineHarness harness(Late(2));
    std::vector<LiveRequest> live;
    for (int i = 0; i < 3; ++i) live.push_back(harness.Submit(harness.MakeRequest(MakePrompt(30 + i, i), 15)));
    for (int64_t step = 0; step < at; ++step) harness.engine().TEST_Step();
    harness.model().ExhaustMemoryFor(1);
    harness.StepUntilIdle();
    int64_t failed = 0;
    for (int i = 0; i < 3; ++i) {
      const RecordingOutput& output = *live[static_cast<size_t>(i)].output;
      failed += output.finished()->status.ok() ? 0 : 1;
      if (!output.finished()->status.ok()) continue;
      EXPECT_EQ(output.tokens(), ExpectedTokens(MakePrompt(30 + i, i), 15));
    }
    EXPECT_LE(failed, 1);
    EXPECT_EQ(harness.engine().stats().kv_pages_used, 0);
  }
}

TEST(EngineAheadTest, ADeviceThatFailsEndsEveryRequestOnce) {
  for (int64_t call = 0; call < 12; ++call) {
    EngineHarness harness(Late(2));
    harness.model().FailForwardFrom(call);
    const LiveRequest live = harness.Submit(harness.MakeRequest(MakePrompt(20, 3), 30));
    harness.StepUntilIdle();
    EXPECT_EQ(live.output->finished()->reason, FinishReason::kError);
    EXPECT_EQ(std::ssize(live.output->tokens()), call);
    EXPECT_FALSE(harness.engine().stats().fault.ok());
  }
}

TEST(EngineAheadTest, AnEngineThatIsTakenDownWaitsForItsSteps) {
  for (int64_t at = 1; at < 6; ++at) {
    LiveRequest live;
    {
      EngineHarness harness(Late(2));
      live = harness.Submit(harness.MakeRequest(MakePrompt(20, 3), 30));
      for (int64_t step = 0; step < at; ++step) harness.engine().TEST_Step();
    }
    EXPECT_EQ(live.output->finished()->reason, FinishReason::kCancelled);
    EXPECT_EQ(std::ssize(live.output->tokens()), at - 1);
  }
}

TEST(EngineAheadTest, AStepLastsAsLongAsItKeepsTheNextOneWaiting) {
  StepList steps;
  EngineHarness harness(Late(2, &steps));
  const SteadyTime begin = harness.clock().Now();
  harness.Generate(harness.MakeRequest(MakePrompt(20, 3), 30));
  SteadyDuration sum{};
  for (const StepEvent& step : steps.steps()) {
    EXPECT_LE(step.duration, milliseconds(1));
    sum += step.duration;
  }
  EXPECT_LE(sum, harness.clock().Now() - begin);
  EXPECT_GE(sum, milliseconds(29));
}

}  // namespace
}  // namespace farspan
