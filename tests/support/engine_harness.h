// SPDX-License-Identifier: Apache-2.0
// An engine over the hash model, stepped by the test on a clock that the test moves.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/model/hash_model.h"
#include "tests/support/fake_clock.h"
#include "tests/support/recording_output.h"

namespace farspan {

struct LiveRequest {
  std::shared_ptr<RequestHandle> handle;
  std::shared_ptr<RecordingOutput> output;
};

struct HarnessOptions {
  EngineConfig engine{.poison_freed_pages = true};
  int64_t num_pages = 256;
  int64_t page_tokens = 8;
  int64_t max_context_tokens = 4096;
  bool answers_late = false;       // the model is a LateModel: steps run ahead
  MetricsSink* metrics = nullptr;  // outlives the harness; none where null
};

class EngineHarness {
 public:
  explicit EngineHarness(const HarnessOptions& options = {});

  // A greedy request with everything else at its default.
  Request MakeRequest(std::vector<TokenId> prompt, int64_t max_tokens, const std::string& attention = "dense { }");
  // Fails the test unless accepted.
  LiveRequest Submit(Request request);
  // Submits and steps until it has finished.
  LiveRequest Generate(Request request);
  void StepUntilIdle();

  Engine& engine() { return *engine_; }
  HashModel& model() { return *model_; }
  FakeClock& clock() { return clock_; }

 private:
  FakeClock clock_;
  NullMetricsSink metrics_;
  HashModel* model_ = nullptr;
  std::unique_ptr<Engine> engine_;
};

// A prompt of `length` tokens that differs for each `salt`.
std::vector<TokenId> MakePrompt(int64_t length, int salt);

// What the hash model answers when it reads as the attention named: `window` is {sinks, window}, nullopt is dense.
struct WindowOptions {
  int64_t sink_tokens = 0;
  int64_t window_tokens = 0;
};
std::vector<TokenId> ExpectedTokens(std::vector<TokenId> prompt, int64_t max_tokens,
                                    std::optional<WindowOptions> window = std::nullopt);

}  // namespace farspan
