// SPDX-License-Identifier: Apache-2.0
#include "engine/sched/request_group.h"

#include <algorithm>
#include <utility>

#include "engine/base/check.h"

namespace farspan {
namespace {

bool Succeeded(FinishReason reason) { return reason == FinishReason::kStop || reason == FinishReason::kLength; }

}  // namespace

RequestGroup::RequestGroup(Request request, std::shared_ptr<RequestHandle> handle, std::shared_ptr<OutputSink> sink)
    : request_(std::move(request)),
      handle_(std::move(handle)),
      sink_(std::move(sink)),
      samples_(static_cast<size_t>(request_.num_samples)) {
  FARSPAN_CHECK(!request_.prompt.empty() && request_.num_samples >= 1 && request_.num_samples <= kMaxSamples);
}

bool RequestGroup::Start(const StartedEvent& event) {
  if (std::exchange(started_, true)) return false;
  Emit(event);
  return true;
}

std::optional<FinishedEvent> RequestGroup::EndSample(int sample, const Outcome& outcome, RequestPhase phase,
                                                     const RequestStatistics& statistics) {
  FARSPAN_CHECK(num_ended_ < request_.num_samples, "sample=", sample);
  samples_[static_cast<size_t>(sample)] = {
      .reason = outcome.reason, .stop_token = outcome.stop_token, .generated_tokens = statistics.generated_tokens};
  if (!Succeeded(outcome.reason) && !failure_) failure_ = outcome;
  phase_ = std::max(phase_, phase);
  AddStatistics(statistics);
  if (++num_ended_ < request_.num_samples) return std::nullopt;
  FinishedEvent event{.phase = phase_, .statistics = statistics_};
  if (failure_) {
    event.reason = failure_->reason;
    event.status = failure_->status;
  } else {
    event.reason = samples_[0].reason;
    event.stop_token = samples_[0].stop_token;
    event.samples = samples_;
  }
  return event;
}

void RequestGroup::AddStatistics(const RequestStatistics& sample) {
  if (num_ended_ == 0) {
    statistics_ = sample;
    return;
  }
  statistics_.cached_prompt_tokens = std::max(statistics_.cached_prompt_tokens, sample.cached_prompt_tokens);
  statistics_.generated_tokens += sample.generated_tokens;
  statistics_.prefill.Add(sample.prefill);
  statistics_.decode.Add(sample.decode);
  statistics_.peak_resident_bytes += sample.peak_resident_bytes;
  statistics_.side_data_bytes += sample.side_data_bytes;
  statistics_.logical_tokens += sample.logical_tokens;
  statistics_.resident_tokens += sample.resident_tokens;
  statistics_.evicted_tokens += sample.evicted_tokens;
  statistics_.preemptions += sample.preemptions;
  statistics_.first_step = std::min(statistics_.first_step, sample.first_step);
  statistics_.first_token = std::min(statistics_.first_token, sample.first_token);
  statistics_.last_token = std::max(statistics_.last_token, sample.last_token);
  statistics_.finished = std::max(statistics_.finished, sample.finished);
}

}  // namespace farspan
