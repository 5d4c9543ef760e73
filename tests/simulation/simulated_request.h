// SPDX-License-Identifier: Apache-2.0
// One request of a simulation: what was asked, what came back, and whether that is right.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "engine/output.h"
#include "engine/request.h"
#include "engine/request_handle.h"
#include "tests/simulation/verdict.h"

namespace farspan {

// What the outside did to a request, which decides how it may end.
struct OutsideDeeds {
  std::optional<int64_t> cancelled_at_step;
  std::vector<bool> stopped_samples;      // by RequestHandle::StopSample
  std::optional<int64_t> cut_at_step;     // the engine was told to cancel all, or its device failed
  bool met_lack_of_memory = false;        // a step found none while it lived
  bool may_meet_fault = false;            // the device fails at some step
  std::optional<int64_t> stop_at_tokens;  // the sink stops sample 0 once it has this many
};

// The sink of its request. Engine thread and test thread are one.
class SimulatedRequest final : public OutputSink {
 public:
  // `clock` and `verdict` outlive this. `nan_position`: rows there have no logits.
  SimulatedRequest(Request request, std::optional<int64_t> nan_position, const Clock* clock, Verdict* verdict);

  void OnEvent(OutputEvent event) override;

  const Request& request() const { return request_; }
  OutsideDeeds& deeds() { return deeds_; }
  const OutsideDeeds& deeds() const { return deeds_; }
  std::shared_ptr<RequestHandle>& handle() { return handle_; }
  const std::optional<StartedEvent>& started() const { return started_; }
  const std::optional<FinishedEvent>& finished() const { return finished_; }
  const std::vector<TokenId>& tokens(int sample) const { return samples_[static_cast<size_t>(sample)].tokens; }
  // The token at a logical position of a sample.
  TokenId token(int sample, int64_t position) const;

  // All rows that computing it alone takes.
  int64_t num_rows() const;
  int times_overtaken = 0;
  bool seen_started = false;

 private:
  struct Sample {
    std::vector<TokenId> tokens;
    int64_t num_logprobs = 0;
  };

  void OnProgress(const PrefillProgressEvent& event);
  void OnTokens(const NewTokensEvent& event);
  void OnFinished(FinishedEvent event);
  void CheckReason();
  void CheckFailure();
  void CheckSample(int sample);
  void CheckStatistics();
  bool HitsNan() const;
  void Fail(const char* invariant, const std::string& detail);

  const Request request_;
  const std::optional<int64_t> nan_position_;
  const Clock* const clock_;
  Verdict* const verdict_;
  std::shared_ptr<RequestHandle> handle_;
  OutsideDeeds deeds_;
  std::vector<Sample> samples_;
  int64_t prompt_tokens_done_ = 0;
  int64_t num_prompt_logprobs_ = 0;
  std::optional<StartedEvent> started_;
  std::optional<FinishedEvent> finished_;
};

}  // namespace farspan
