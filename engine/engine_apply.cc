// SPDX-License-Identifier: Apache-2.0
// The second half of EngineLoop: what a completed step means for each of its sequences.
#include <algorithm>
#include <utility>

#include "engine/engine_loop.h"

namespace farspan {

void EngineLoop::Apply(StepInFlight* step, std::span<DrawResult> results) {
  for (const BatchRun& run : step->runs) {
    Sequence* const sequence = scheduler_.FindRunning(run.id);
    if (Overran(*step, sequence)) {
      step->event.overrun_rows += run.num_tokens;
      continue;
    }
    CountStep(run, sequence);
    sequence->CompleteStep(run.num_tokens, run.drop);
    ApplyDraws(run.prefill, sequence,
               results.subspan(static_cast<size_t>(run.first_draw), static_cast<size_t>(run.num_draws)));
  }
}

// Whether the step began before it was known that the sequence had ended: its rows are nothing to anybody.
bool EngineLoop::Overran(const StepInFlight& step, const Sequence* sequence) const {
  if (sequence == nullptr || sequence->outcome()) return true;
  const RequestHandle& handle = sequence->group().handle();
  return step.ahead && (handle.cancelled() || handle.stopped(sequence->sample()));
}

void EngineLoop::CountStep(const BatchRun& run, Sequence* sequence) {
  const AttentionPolicy& policy = *sequence->request().policy;
  RequestStatistics& statistics = sequence->statistics();
  (run.prefill ? statistics.prefill : statistics.decode).Add(run.traffic);
  const int64_t held_pages = sequence->block_table().num_resident_pages() - sequence->num_inherited_pages();
  statistics.peak_resident_bytes =
      std::max(statistics.peak_resident_bytes, held_pages * parts_->model->shape().kv_bytes_per_page());
  if ((policy.needs() & kSelectorFeatures) != PlanFeatures::kNone) {
    statistics.side_data_bytes =
        std::max(statistics.side_data_bytes, held_pages * parts_->kv_cache->side_data_bytes_per_page());
  }
  parts_->metrics->OnTraffic({.policy = policy.name(), .prefill = run.prefill, .traffic = run.traffic});
}

// The first draw that failed is the sequence's outcome; what comes before it is still reported.
void EngineLoop::ApplyDraws(bool prefill, Sequence* sequence, std::span<DrawResult> results) {
  const bool draws = sequence->computed() == sequence->num_tokens();
  std::vector<TokenLogprobs> prompt_logprobs;
  for (DrawResult& result : results) {
    if (!result.ok()) {
      sequence->SetOutcome({.reason = FinishReason::kError, .status = result.status()});
      break;
    }
    if (!draws || &result != &results.back()) prompt_logprobs.push_back(*std::move(result->logprobs));
  }
  // Tokens computed again after a preemption were reported before; the first sample speaks for all of the prompt.
  if (prefill && !sequence->follows() && sequence->computed() > sequence->reported_prompt_tokens()) {
    sequence->ReportPromptTokens(sequence->computed());
    sequence->group().Emit(PrefillProgressEvent{.done_tokens = sequence->computed(),
                                                .total_tokens = sequence->prompt_tokens(),
                                                .prompt_logprobs = std::move(prompt_logprobs)});
  }
  if (!draws || sequence->outcome()) return;
  DrawnToken& drawn = *results.back();
  std::vector<TokenLogprobs> logprobs;
  if (drawn.logprobs) logprobs.push_back(*std::move(drawn.logprobs));
  ReportToken(sequence, drawn.token, std::move(logprobs));
  DecideOutcome(sequence, drawn.token);
}

void EngineLoop::ReportToken(Sequence* sequence, TokenId token, std::vector<TokenLogprobs> logprobs) {
  const SteadyTime now = Now();
  const bool first = sequence->num_generated() == 0;
  const SteadyTime previous = first ? sequence->statistics().arrival : sequence->statistics().last_token;
  sequence->AppendToken(token, now);
  const TokenEvent::Place place = !first                ? TokenEvent::Place::kLater
                                  : sequence->follows() ? TokenEvent::Place::kFirstOfSample
                                                        : TokenEvent::Place::kFirstOfRequest;
  parts_->metrics->OnToken({.policy = sequence->request().policy->name(),
                            .place = place,
                            .gap = now - previous,
                            .prompt_tokens = sequence->prompt_tokens()});
  sequence->group().Emit(
      NewTokensEvent{.sample = sequence->sample(), .tokens = {token}, .logprobs = std::move(logprobs)});
}

void EngineLoop::DecideOutcome(Sequence* sequence, TokenId token) {
  const Request& request = sequence->request();
  const std::vector<TokenId>& stops = request.stop.stop_token_ids;
  const bool may_stop = request.forced_tokens.empty() && sequence->num_generated() >= request.stop.min_tokens;
  if (may_stop && std::binary_search(stops.begin(), stops.end(), token)) {
    sequence->SetOutcome({.reason = FinishReason::kStop, .stop_token = token});
  } else if (sequence->num_generated() >= request.stop.max_tokens) {
    sequence->SetOutcome({.reason = FinishReason::kLength});
  }
}

}  // namespace farspan
