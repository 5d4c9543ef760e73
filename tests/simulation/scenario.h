// SPDX-License-Identifier: Apache-2.0
// What one simulation is about: an engine of some size, and the requests that come to it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "tests/simulation/choices.h"

namespace farspan {

// Drawn once; requests are drawn as the simulation goes.
class Scenario {
 public:
  // `choices` outlives this.
  explicit Scenario(Choices* choices);

  const EngineConfig& engine() const { return engine_; }
  int64_t max_steps_in_flight() const { return max_steps_in_flight_; }
  int64_t num_pages() const { return num_pages_; }
  int64_t page_tokens() const { return page_tokens_; }
  int64_t max_context_tokens() const { return max_context_tokens_; }
  const std::optional<int64_t>& fault_at_step() const { return fault_at_step_; }
  const std::optional<int64_t>& nan_position() const { return nan_position_; }

  Request DrawRequest(int64_t number, SteadyTime now);
  // After how many tokens the client finds a stop string in the first sample, if it does.
  std::optional<int64_t> DrawStopString(const Request& request);
  // True in about one of `arrival_spacing` rounds.
  bool Arrives() { return choices_->OneIn(arrival_spacing_); }
  // True where the device's next steps find no memory.
  bool RunsOutOfMemory() { return memory_runs_out_ && choices_->OneIn(40); }
  bool Cancels() { return choices_->OneIn(cancel_spacing_); }

 private:
  std::vector<TokenId> DrawPrompt();
  void DrawSampling(Request* request);
  void DrawLimits(Request* request, SteadyTime now);

  Choices* const choices_;
  EngineConfig engine_;
  int64_t max_steps_in_flight_ = 1;
  int64_t num_pages_ = 0;
  int64_t page_tokens_ = 0;
  int64_t max_context_tokens_ = 0;
  int64_t arrival_spacing_ = 1;
  int64_t cancel_spacing_ = 1;
  int64_t num_tenants_ = 1;
  bool deadlines_ = false;
  bool memory_runs_out_ = false;
  std::optional<int64_t> fault_at_step_;
  std::optional<int64_t> nan_position_;
  std::vector<std::vector<TokenId>> documents_;  // prompts begin with parts of these
  std::vector<std::shared_ptr<const AttentionPolicy>> policies_;
};

}  // namespace farspan
