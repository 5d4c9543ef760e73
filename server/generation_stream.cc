// SPDX-License-Identifier: Apache-2.0
#include "server/generation_stream.h"

#include <algorithm>
#include <utility>

#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/text/utf8.h"
#include "server/error.h"
#include "server/statistics_proto.h"

namespace farspan {

namespace {

// How a sample ended for the engine. A request of one sample may leave the list out.
SampleOutcome OutcomeOf(size_t sample, const FinishedEvent& event) {
  if (sample < event.samples.size()) return event.samples[sample];
  return {
      .reason = event.reason, .stop_token = event.stop_token, .generated_tokens = event.statistics.generated_tokens};
}

}  // namespace

absl::StatusOr<std::unique_ptr<GenerationStream>> GenerationStream::Create(
    Presentation presentation, const ServedModel& model, std::shared_ptr<GenerationListener> listener) {
  std::unique_ptr<GenerationStream> stream(new GenerationStream(std::move(presentation), model, std::move(listener)));
  for (int i = 0; i < stream->presentation_.num_samples; ++i) {
    FARSPAN_ASSIGN_OR_RETURN(SampleText sample, SampleText::Create(&stream->presentation_.stops, *model.tokenizer));
    stream->samples_.push_back(std::move(sample));
  }
  return stream;
}

GenerationStream::GenerationStream(Presentation presentation, const ServedModel& model,
                                   std::shared_ptr<GenerationListener> listener)
    : presentation_(std::move(presentation)), model_(model), listener_(std::move(listener)) {}

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
  const auto index = static_cast<size_t>(event.sample);
  FARSPAN_CHECK(index < samples_.size());
  SampleText& sample = samples_[index];
  if (sample.matched() != nullptr) return;  // what the engine computed before it saw the stop
  v1::GenerationDelta delta;
  for (size_t i = 0; i < event.tokens.size() && sample.Push(event.tokens[i]); ++i) {
    delta.add_token_ids(event.tokens[i]);
    if (i < event.logprobs.size() && presentation_.reports_logprobs) {
      *delta.add_logprobs() = SpellLogprobs(event.logprobs[i]);
    }
  }
  SendText(index, std::move(delta));
  if (sample.matched() != nullptr) stop_sample(event.sample);
}

void GenerationStream::OnFinished(const FinishedEvent& event) {
  GenerationOutcome outcome = {
      .status = absl::OkStatus(), .reason = event.reason, .phase = event.phase, .statistics = event.statistics};
  const bool all_matched = std::all_of(samples_.begin(), samples_.end(),
                                       [](const SampleText& sample) { return sample.matched() != nullptr; });
  int64_t num_tokens = 0;
  for (const SampleText& sample : samples_) num_tokens += sample.num_tokens();
  outcome.statistics.generated_tokens = std::min(outcome.statistics.generated_tokens, num_tokens);
  if (all_matched || event.reason == FinishReason::kStop || event.reason == FinishReason::kLength) {
    for (size_t i = 0; i < samples_.size(); ++i) {
      samples_[i].End(/*by_stop_token=*/OutcomeOf(i, event).stop_token.has_value());
      SendText(i, {});
    }
    v1::GenerateResponse response;
    *response.mutable_finished() = Finished(event);
    const bool stopped = response.finished().finish_reason() == v1::FINISH_REASON_STOP;
    outcome.reason = stopped ? FinishReason::kStop : FinishReason::kLength;
    listener_->OnResponse(std::move(response));
  } else {
    outcome.status = EndedEarly(event);
  }
  // A call holds its stream and the stream its call: letting go here frees both.
  std::exchange(listener_, nullptr)->OnEnd(outcome);
}

void GenerationStream::SendText(size_t sample, v1::GenerationDelta delta) {
  delta.set_text(samples_[sample].TakeText());
  if (delta.text().empty() && delta.token_ids().empty()) return;
  delta.set_sample_index(static_cast<int32_t>(sample));
  v1::GenerateResponse response;
  *response.mutable_delta() = std::move(delta);
  listener_->OnResponse(std::move(response));
}

v1::SampleFinish GenerationStream::Finish(size_t sample, const FinishedEvent& event) const {
  const SampleOutcome outcome = OutcomeOf(sample, event);
  const SampleText& text = samples_[sample];
  v1::SampleFinish finish;
  finish.set_finish_reason(v1::FINISH_REASON_STOP);
  if (text.matched() != nullptr) {
    finish.set_stop_string(*text.matched());
  } else if (outcome.reason != FinishReason::kStop) {
    finish.set_finish_reason(v1::FINISH_REASON_LENGTH);
  } else if (outcome.stop_token) {
    finish.set_stop_token_id(*outcome.stop_token);
  }
  // Steps after a stop string cost time and bytes, but their tokens are no part of the answer.
  finish.set_generated_tokens_count(std::min(outcome.generated_tokens, text.num_tokens()));
  return finish;
}

v1::GenerationFinished GenerationStream::Finished(const FinishedEvent& event) const {
  v1::GenerationFinished finished;
  int64_t num_tokens = 0;
  int64_t longest_sample_tokens = 0;
  for (size_t i = 0; i < samples_.size(); ++i) {
    v1::SampleFinish& sample = *finished.add_samples();
    sample = Finish(i, event);
    num_tokens += sample.generated_tokens_count();
    longest_sample_tokens = std::max(longest_sample_tokens, OutcomeOf(i, event).generated_tokens);
  }
  const v1::SampleFinish& first = finished.samples(0);
  finished.set_finish_reason(first.finish_reason());
  if (first.has_stop_string()) finished.set_stop_string(first.stop_string());
  if (first.has_stop_token_id()) finished.set_stop_token_id(first.stop_token_id());
  SetUsage(event.statistics, finished.mutable_usage());
  finished.mutable_usage()->set_generated_tokens_count(num_tokens);
  SetTiming(event.statistics, longest_sample_tokens, finished.mutable_timing());
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
