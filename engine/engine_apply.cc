// SPDX-License-Identifier: Apache-2.0
// The second half of EngineLoop: what a completed step means for each of its sequences.
#include <algorithm>
#include <utility>

#include "engine/base/status_macros.h"
#include "engine/engine_loop.h"
#include "engine/sampling/sampler.h"

namespace farspan {

absl::Status EngineLoop::Apply(const BuiltBatch& built) {
  const ModelShape& shape = parts_->model->shape();
  LogitRows logits(parts_->model.get(), built.forward.num_logit_rows());
  for (const BatchRun& run : built.runs) {
    Sequence& sequence = scheduler_.sequence(run.id);
    RequestStatistics& statistics = sequence.statistics();
    (run.prefill ? statistics.prefill : statistics.decode).Add(run.traffic);
    const int64_t held_pages = sequence.block_table().num_resident_pages() - sequence.num_inherited_pages();
    statistics.peak_resident_bytes = std::max(statistics.peak_resident_bytes, held_pages * shape.kv_bytes_per_page());
    if ((sequence.request().policy->needs() & kSelectorFeatures) != PlanFeatures::kNone) {
      statistics.side_data_bytes =
          std::max(statistics.side_data_bytes, held_pages * parts_->kv_cache->side_data_bytes_per_page());
    }
    parts_->metrics->OnTraffic(
        {.policy = sequence.request().policy->name(), .prefill = run.prefill, .traffic = run.traffic});
    sequence.CompleteStep(run.drop);
    const absl::Status status = ApplyLogits(run, &sequence, &logits);
    if (absl::IsResourceExhausted(status)) {
      sequence.SetOutcome({.reason = FinishReason::kError, .status = status});
    } else if (!status.ok()) {
      return status;
    }
  }
  return absl::OkStatus();
}

absl::Status EngineLoop::ApplyLogits(const BatchRun& run, Sequence* sequence, LogitRows* logits) {
  const int64_t first_position = sequence->computed() - run.num_logit_rows;
  std::vector<TokenLogprobs> prompt_logprobs;
  std::span<float> row;
  for (int64_t i = 0; i < run.num_logit_rows && !sequence->outcome(); ++i) {
    FARSPAN_ASSIGN_OR_RETURN(row, logits->Row(run.first_logit_row + i));
    if (run.prefill) TakePromptLogprobs(sequence, first_position + i, row, &prompt_logprobs);
  }
  // Tokens computed again after a preemption were reported before; the first sample speaks for all of the prompt.
  if (run.prefill && !sequence->follows() && sequence->computed() > sequence->reported_prompt_tokens()) {
    sequence->ReportPromptTokens(sequence->computed());
    sequence->group().Emit(PrefillProgressEvent{.done_tokens = sequence->computed(),
                                                .total_tokens = sequence->prompt_tokens(),
                                                .prompt_logprobs = std::move(prompt_logprobs)});
  }
  const bool draws = sequence->computed() == sequence->num_tokens();
  if (draws && !sequence->outcome()) DrawToken(sequence, row);
  return absl::OkStatus();
}

void EngineLoop::TakePromptLogprobs(Sequence* sequence, int64_t position, std::span<const float> logits,
                                    std::vector<TokenLogprobs>* logprobs) {
  const std::optional<int> alternatives = sequence->request().prompt_logprobs;
  if (!alternatives || sequence->follows() || position + 1 >= sequence->prompt_tokens()) return;
  if (position < sequence->reported_prompt_tokens()) return;
  auto result = ComputeLogprobs(logits, sequence->token(position + 1), *alternatives);
  if (!result.ok()) {
    sequence->SetOutcome({.reason = FinishReason::kError, .status = std::move(result).status()});
    return;
  }
  logprobs->push_back(*std::move(result));
}

void EngineLoop::DrawToken(Sequence* sequence, std::span<float> logits) {
  const Request& request = sequence->request();
  const auto fail = [sequence](absl::Status status) {
    sequence->SetOutcome({.reason = FinishReason::kError, .status = std::move(status)});
  };
  const auto forced = static_cast<size_t>(sequence->num_generated());
  // Log-probabilities come from the model's logits, which drawing overwrites.
  const std::vector<float> model_logits =
      request.logprobs ? std::vector<float>(logits.begin(), logits.end()) : std::vector<float>();
  TokenId token = 0;
  if (forced < request.forced_tokens.size()) {
    token = request.forced_tokens[forced];
  } else {
    const DrawKey key = {
        .seed = request.sampling.seed, .position = sequence->num_tokens(), .sample_index = sequence->sample()};
    auto drawn = SampleToken(request.sampling, sequence->counts(), key, logits);
    if (!drawn.ok()) return fail(std::move(drawn).status());
    token = *drawn;
  }
  std::vector<TokenLogprobs> logprobs;
  if (request.logprobs) {
    auto result = ComputeLogprobs(model_logits, token, *request.logprobs);
    if (!result.ok()) return fail(std::move(result).status());
    logprobs.push_back(*std::move(result));
  }
  ReportToken(sequence, token, std::move(logprobs));
  DecideOutcome(sequence, token);
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
