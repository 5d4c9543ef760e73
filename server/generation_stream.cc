// SPDX-License-Identifier: Apache-2.0
#include "server/generation_stream.h"

#include <algorithm>
#include <utility>

#include "engine/base/status_macros.h"
#include "engine/text/utf8.h"
#include "server/error.h"
#include "server/statistics_proto.h"

namespace farspan {

absl::StatusOr<std::unique_ptr<GenerationStream>> GenerationStream::Create(
    Presentation presentation, const ServedModel& model, std::shared_ptr<GenerationListener> listener) {
  FARSPAN_ASSIGN_OR_RETURN(StopMatcher matcher,
                           StopMatcher::Create(presentation.stop_strings, presentation.include_stop_string));
  return std::unique_ptr<GenerationStream>(
      new GenerationStream(std::move(presentation), model, std::move(matcher), std::move(listener)));
}

GenerationStream::GenerationStream(Presentation presentation, const ServedModel& model, StopMatcher matcher,
                                   std::shared_ptr<GenerationListener> listener)
    : presentation_(std::move(presentation)),
      model_(model),
      listener_(std::move(listener)),
      detokenizer_(*model.tokenizer),
      matcher_(std::move(matcher)) {}

void GenerationStream::OnEvent(const OutputEvent& event, const StopSample& stop_sample) {
  if (const auto* started = std::get_if<StartedEvent>(&event)) return OnStarted(*started);
  if (const auto* progress = std::get_if<PrefillProgressEvent>(&event)) return OnProgress(*progress);
  if (const auto* tokens = std::get_if<NewTokensEvent>(&event)) return OnTokens(*tokens, stop_sample);
  OnFinished(std::get<FinishedEvent>(event));
}

void GenerationStream::OnStarted(const StartedEvent& event) {
  v1::GenerateResponse response;
  v1::GenerationStarted& started = *response.mutable_started();
  started = presentation_.started;
  started.set_cached_prompt_tokens_count(event.cached_prompt_tokens);
  started.set_reserved_kv_bytes(event.reserved_kv_bytes);
  SetDuration(event.queue_duration, started.mutable_queue_duration());
  listener_->OnResponse(std::move(response));
}

void GenerationStream::OnProgress(const PrefillProgressEvent& event) {
  v1::GenerateResponse response;
  v1::GenerationProgress& progress = *response.mutable_progress();
  progress.set_prefill_tokens_done_count(event.done_tokens);
  progress.set_prefill_tokens_total_count(event.total_tokens);
  if (presentation_.reports_prompt_logprobs && !std::exchange(sent_first_prompt_token_, true)) {
    progress.add_prompt_logprobs();
  }
  for (const TokenLogprobs& logprobs : event.prompt_logprobs) {
    *progress.add_prompt_logprobs() = SpellLogprobs(logprobs);
  }
  listener_->OnResponse(std::move(response));
}

void GenerationStream::OnTokens(const NewTokensEvent& event, const StopSample& stop_sample) {
  if (matched_) return;  // what the engine computed before it saw the cancel
  for (size_t i = 0; i < event.tokens.size() && !matched_; ++i) {
    TakeHeldToken(/*is_stop=*/false);
    if (matched_) break;
    const TokenId token = event.tokens[i];
    ++num_tokens_;
    delta_.add_token_ids(token);
    if (i < event.logprobs.size() && presentation_.reports_logprobs) {
      *delta_.add_logprobs() = SpellLogprobs(event.logprobs[i]);
    }
    held_token_ = token;
    if (!MayBeStopToken(token)) TakeHeldToken(/*is_stop=*/false);
  }
  SendDelta();
  if (matched_) stop_sample(event.sample);
}

void GenerationStream::OnFinished(const FinishedEvent& event) {
  TakeHeldToken(/*is_stop=*/event.stop_token.has_value());
  GenerationOutcome outcome = {
      .status = absl::OkStatus(), .reason = event.reason, .phase = event.phase, .statistics = event.statistics};
  outcome.statistics.generated_tokens = std::min(outcome.statistics.generated_tokens, num_tokens_);
  if (matched_) outcome.reason = FinishReason::kStop;
  if (outcome.reason == FinishReason::kStop || outcome.reason == FinishReason::kLength) {
    if (!matched_) TakeText(detokenizer_.Flush(), /*may_stop=*/false);
    if (!matched_) delta_.mutable_text()->append(matcher_.Flush());
    SendDelta();
    v1::GenerateResponse response;
    *response.mutable_finished() = Finished(event);
    listener_->OnResponse(std::move(response));
  } else {
    outcome.status = EndedEarly(event);
  }
  // A call holds its stream and the stream its call: letting go here frees both.
  std::exchange(listener_, nullptr)->OnEnd(outcome);
}

void GenerationStream::TakeHeldToken(bool is_stop) {
  if (!held_token_) return;
  const TokenId token = *std::exchange(held_token_, std::nullopt);
  if (is_stop || matched_) return;
  TakeText(detokenizer_.Push(token), num_tokens_ >= presentation_.min_tokens);
}

void GenerationStream::TakeText(const std::string& text, bool may_stop) {
  StopMatcher::Piece piece = matcher_.Push(text, may_stop);
  delta_.mutable_text()->append(piece.text);
  matched_ = piece.matched;
}

void GenerationStream::SendDelta() {
  if (delta_.text().empty() && delta_.token_ids().empty()) return;
  v1::GenerateResponse response;
  *response.mutable_delta() = std::exchange(delta_, {});
  listener_->OnResponse(std::move(response));
}

bool GenerationStream::MayBeStopToken(TokenId token) const {
  return std::binary_search(presentation_.stop_token_ids.begin(), presentation_.stop_token_ids.end(), token);
}

v1::GenerationFinished GenerationStream::Finished(const FinishedEvent& event) const {
  v1::GenerationFinished finished;
  if (matched_) {
    finished.set_finish_reason(v1::FINISH_REASON_STOP);
    finished.set_stop_string(matcher_.stop_strings()[*matched_]);
  } else if (event.reason == FinishReason::kStop) {
    finished.set_finish_reason(v1::FINISH_REASON_STOP);
    if (event.stop_token) finished.set_stop_token_id(*event.stop_token);
  } else {
    finished.set_finish_reason(v1::FINISH_REASON_LENGTH);
  }
  SetUsage(event.statistics, finished.mutable_usage());
  // Steps after a stop string cost time and bytes, but their tokens are no part of the answer.
  finished.mutable_usage()->set_generated_tokens_count(std::min(event.statistics.generated_tokens, num_tokens_));
  SetTiming(event.statistics, finished.mutable_timing());
  SetKvStatistics(event.statistics, presentation_.mode, finished.mutable_kv());
  *finished.mutable_attention() = presentation_.started.attention();
  finished.set_system_fingerprint(model_.system_fingerprint);
  return finished;
}

v1::TokenLogprobs GenerationStream::SpellLogprobs(const TokenLogprobs& logprobs) const {
  v1::TokenLogprobs spelled;
  SpellLogprob(logprobs.chosen, spelled.mutable_chosen());
  for (const TokenLogprob& top : logprobs.top) SpellLogprob(top, spelled.add_top());
  return spelled;
}

void GenerationStream::SpellLogprob(const TokenLogprob& logprob, v1::TokenLogprob* out) const {
  out->set_token_id(logprob.token);
  out->set_logprob(logprob.logprob);
  AppendUtf8Lossy(model_.tokenizer->TokenBytes(logprob.token), /*final=*/true, *out->mutable_text());
}

}  // namespace farspan
