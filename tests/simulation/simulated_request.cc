// SPDX-License-Identifier: Apache-2.0
#include "tests/simulation/simulated_request.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/model/hash_model.h"
#include "tests/simulation/hash_oracle.h"

namespace farspan {

SimulatedRequest::SimulatedRequest(Request request, std::optional<int64_t> nan_position, const Clock* clock,
                                   Verdict* verdict)
    : request_(std::move(request)),
      nan_position_(nan_position),
      clock_(clock),
      verdict_(verdict),
      samples_(static_cast<size_t>(request_.num_samples)) {
  deeds_.stopped_samples.resize(samples_.size());
}

void SimulatedRequest::Fail(const char* invariant, const std::string& detail) {
  verdict_->Fail(invariant, absl::StrCat("request ", request_.id, " (", request_.policy->Describe(), ", ",
                                         request_.prompt.size(), " prompt tokens, max_tokens ",
                                         request_.stop.max_tokens, ", n ", request_.num_samples, "): ", detail));
}

TokenId SimulatedRequest::token(int sample, int64_t position) const {
  const auto prompt_tokens = static_cast<int64_t>(request_.prompt.size());
  return position < prompt_tokens ? request_.prompt[static_cast<size_t>(position)]
                                  : tokens(sample)[static_cast<size_t>(position - prompt_tokens)];
}

int64_t SimulatedRequest::num_rows() const {
  return static_cast<int64_t>(request_.prompt.size()) + request_.num_samples * request_.stop.max_tokens;
}

void SimulatedRequest::OnEvent(OutputEvent event) {
  if (finished_) Fail("events", "an event came after the last one");
  if (const auto* started = std::get_if<StartedEvent>(&event)) {
    if (started_) Fail("events", "started twice");
    if (request_.deadline <= clock_->Now()) Fail("outcome", "started after its deadline");
    if (request_.queue_deadline <= clock_->Now()) Fail("outcome", "started after its queue deadline");
    started_ = *started;
  } else if (const auto* progress = std::get_if<PrefillProgressEvent>(&event)) {
    OnProgress(*progress);
  } else if (const auto* tokens = std::get_if<NewTokensEvent>(&event)) {
    OnTokens(*tokens);
  } else {
    OnFinished(std::get<FinishedEvent>(std::move(event)));
  }
}

void SimulatedRequest::OnProgress(const PrefillProgressEvent& event) {
  if (!started_) Fail("events", "progress before the start");
  if (event.done_tokens < prompt_tokens_done_ || event.done_tokens > event.total_tokens) {
    Fail("events", absl::StrCat("progress went from ", prompt_tokens_done_, " to ", event.done_tokens));
  }
  prompt_tokens_done_ = event.done_tokens;
  for (const TokenLogprobs& logprobs : event.prompt_logprobs) {
    const auto place = static_cast<size_t>(++num_prompt_logprobs_);
    if (place >= request_.prompt.size() || logprobs.chosen.token != request_.prompt[place]) {
      Fail("output", absl::StrCat("prompt log-probability ", place, " is of another token"));
    }
  }
}

void SimulatedRequest::OnTokens(const NewTokensEvent& event) {
  if (!started_) Fail("events", "tokens before the start");
  if (event.sample < 0 || event.sample >= request_.num_samples) return Fail("events", "no such sample");
  Sample& sample = samples_[static_cast<size_t>(event.sample)];
  sample.tokens.insert(sample.tokens.end(), event.tokens.begin(), event.tokens.end());
  sample.num_logprobs += static_cast<int64_t>(event.logprobs.size());
  const size_t expected = request_.logprobs ? event.tokens.size() : 0;
  if (event.logprobs.size() != expected) Fail("output", "not one log-probability a token");
  if (deeds_.stop_at_tokens && event.sample == 0 && *deeds_.stop_at_tokens <= std::ssize(sample.tokens)) {
    deeds_.stopped_samples[0] = true;
    handle_->StopSample(0);
  }
}

void SimulatedRequest::OnFinished(FinishedEvent event) {
  finished_ = std::move(event);
  CheckReason();
  for (int sample = 0; sample < request_.num_samples; ++sample) CheckSample(sample);
  CheckStatistics();
}

void SimulatedRequest::CheckReason() {
  const FinishReason reason = finished_->reason;
  if (reason != FinishReason::kStop && reason != FinishReason::kLength) return CheckFailure();
  if (!finished_->status.ok()) Fail("outcome", "a success with a status");
  const bool some_reached_the_end =
      std::any_of(samples_.begin(), samples_.end(), [](const Sample& sample) { return !sample.tokens.empty(); });
  const bool some_stopped = std::count(deeds_.stopped_samples.begin(), deeds_.stopped_samples.end(), true) > 0;
  if (!some_reached_the_end && !some_stopped) Fail("outcome", "ended without a token and without a reason");
}

void SimulatedRequest::CheckFailure() {
  const SteadyTime now = clock_->Now();
  const auto justify = [this](bool justified, const char* what) {
    if (!justified)
      Fail("outcome", absl::StrCat("ended as ", what, " without a reason: ", std::string(finished_->status.message())));
  };
  switch (finished_->reason) {
    case FinishReason::kCancelled:
      return justify(deeds_.cancelled_at_step.has_value() || deeds_.cut_at_step.has_value(), "cancelled");
    case FinishReason::kDeadline:
      return justify(request_.deadline <= now, "past its deadline");
    case FinishReason::kQueueTimeout:
      return justify(request_.queue_deadline <= now && !started_, "past its queue deadline");
    default:
      return justify(deeds_.cut_at_step.has_value() || HitsNan() ||
                         (deeds_.may_meet_fault && absl::IsUnavailable(finished_->status)) ||
                         (deeds_.met_lack_of_memory && absl::IsResourceExhausted(finished_->status)),
                     "failed");
  }
}

bool SimulatedRequest::HitsNan() const {
  const auto prompt_tokens = static_cast<int64_t>(request_.prompt.size());
  const int64_t first_row = request_.prompt_logprobs ? 0 : prompt_tokens - 1;
  return nan_position_ && *nan_position_ >= first_row && *nan_position_ < prompt_tokens + request_.stop.max_tokens - 1;
}

void SimulatedRequest::CheckSample(int sample) {
  const std::vector<TokenId>& tokens = samples_[static_cast<size_t>(sample)].tokens;
  const bool success = finished_->status.ok();
  HashOracle oracle(request_, sample, HashModel::kDefaultLayers);
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (oracle.done()) return Fail("output", absl::StrCat("sample ", sample, " went on after its end"));
    const TokenId expected = oracle.Next();
    if (tokens[i] == expected) continue;
    return Fail("output", absl::StrCat("sample ", sample, " has token ", tokens[i], " at ", i, " where it is ",
                                       expected, " alone; preemptions ", finished_->statistics.preemptions,
                                       ", cached prompt tokens ", finished_->statistics.cached_prompt_tokens));
  }
  if (success && !oracle.done() && !deeds_.stopped_samples[static_cast<size_t>(sample)]) {
    Fail("output", absl::StrCat("sample ", sample, " ended early, after ", tokens.size(), " tokens"));
  }
}

void SimulatedRequest::CheckStatistics() {
  const RequestStatistics& statistics = finished_->statistics;
  const auto prompt_tokens = static_cast<int64_t>(request_.prompt.size());
  const int64_t generated =
      std::accumulate(samples_.begin(), samples_.end(), int64_t{0},
                      [](int64_t sum, const Sample& sample) { return sum + std::ssize(sample.tokens); });
  if (statistics.generated_tokens != generated) {
    Fail("statistics",
         absl::StrCat("generated_tokens is ", statistics.generated_tokens, ", reported were ", generated));
  }
  if (statistics.prompt_tokens != prompt_tokens) Fail("statistics", "prompt_tokens is not the prompt's length");
  if (statistics.cached_prompt_tokens < 0 || statistics.cached_prompt_tokens >= prompt_tokens) {
    Fail("statistics", absl::StrCat("cached_prompt_tokens is ", statistics.cached_prompt_tokens));
  }
  if (!request_.use_prefix_cache && statistics.cached_prompt_tokens != 0) {
    Fail("statistics", "a request that bypasses the prefix cache was given pages of it");
  }
  const bool whole_prompt = finished_->status.ok() && !deeds_.stopped_samples[0];
  if (whole_prompt && request_.prompt_logprobs && num_prompt_logprobs_ != prompt_tokens - 1) {
    Fail("output", absl::StrCat(num_prompt_logprobs_, " prompt log-probabilities of ", prompt_tokens - 1));
  }
}

}  // namespace farspan
