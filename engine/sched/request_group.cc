// SPDX-License-Identifier: Apache-2.0
#include "engine/sched/request_group.h"

#include <algorithm>
#include <utility>

#include "engine/base/check.h"

namespace farspan {
namespace {

constexpr SteadyTime kNotReached{};

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
  statistics_.cached_prompt_tokens = event.cached_prompt_tokens;
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
  statistics_.resident_tokens = statistics_.logical_tokens - statistics_.evicted_tokens;
  for (SteadyTime* time : {&statistics_.first_step, &statistics_.first_token, &statistics_.last_token}) {
    if (*time == kNotReached) *time = statistics_.finished;
  }
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
  const auto earliest = [](SteadyTime a, SteadyTime b) {
    return a == kNotReached ? b : b == kNotReached ? a : std::min(a, b);
  };
  RequestStatistics& total = statistics_;
  total.prompt_tokens = sample.prompt_tokens;
  total.arrival = sample.arrival;
  total.generated_tokens += sample.generated_tokens;
  total.prefill.Add(sample.prefill);
  total.decode.Add(sample.decode);
  total.peak_resident_bytes += sample.peak_resident_bytes;
  total.side_data_bytes += sample.side_data_bytes;
  // The prompt, as far as any sample got with it, and what each made of it.
  const int64_t prompt = std::min(sample.logical_tokens, sample.prompt_tokens);
  prompt_computed_ = std::max(prompt_computed_, prompt);
  beyond_prompt_ += sample.logical_tokens - prompt;
  total.logical_tokens = prompt_computed_ + beyond_prompt_;
  total.evicted_tokens = std::max(total.evicted_tokens, sample.evicted_tokens);
  total.preemptions += sample.preemptions;
  total.first_step = earliest(total.first_step, sample.first_step);
  total.first_token = earliest(total.first_token, sample.first_token);
  total.last_token = std::max(total.last_token, sample.last_token);
  total.finished = std::max(total.finished, sample.finished);
}

}  // namespace farspan
