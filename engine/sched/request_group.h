// SPDX-License-Identifier: Apache-2.0
// RequestGroup: the samples of one accepted request seen as one request, which starts once and ends once.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "engine/output.h"
#include "engine/request.h"
#include "engine/request_handle.h"
#include "engine/sched/outcome.h"

namespace farspan {

// Engine thread only. Shared by the sequences of its samples; owns the request.
class RequestGroup {
 public:
  RequestGroup(Request request, std::shared_ptr<RequestHandle> handle, std::shared_ptr<OutputSink> sink);

  const Request& request() const { return request_; }
  const RequestHandle& handle() const { return *handle_; }

  // The first call alone is reported. True for that one.
  bool Start(const StartedEvent& event);
  bool started() const { return started_; }
  void Emit(OutputEvent event) { sink_->OnEvent(std::move(event)); }

  // One sample has ended. The event that ends the request once all have: emitting it is the caller's.
  std::optional<FinishedEvent> EndSample(int sample, const Outcome& outcome, RequestPhase phase,
                                         const RequestStatistics& statistics);
  // Every sample's outcome, as far as they have ended.
  const std::vector<SampleOutcome>& samples() const { return samples_; }
  // Why the request failed, once one of its samples has: the others end the same way.
  const std::optional<Outcome>& failure() const { return failure_; }

 private:
  void AddStatistics(const RequestStatistics& sample);

  const Request request_;
  const std::shared_ptr<RequestHandle> handle_;
  const std::shared_ptr<OutputSink> sink_;
  bool started_ = false;
  int num_ended_ = 0;
  RequestPhase phase_ = RequestPhase::kQueued;  // the furthest of any sample
  std::optional<Outcome> failure_;
  std::vector<SampleOutcome> samples_;
  RequestStatistics statistics_;  // of the samples that have ended
  int64_t prompt_computed_ = 0;   // by the one that came furthest in the prompt
  int64_t beyond_prompt_ = 0;     // computed tokens after the prompt, of all samples
};

}  // namespace farspan
