// SPDX-License-Identifier: Apache-2.0
#include "server/generate_call.h"

#include <algorithm>
#include <utility>

#include "engine/base/status_macros.h"
#include "server/error.h"
#include "server/request_parser.h"

namespace farspan {
namespace {

constexpr absl::string_view kMethod = "Generate";

}  // namespace

LoggedGeneration Logged(const ParsedGeneration& generation, const v1::GenerationSpec& spec, const ServedModel& model) {
  return {.policy = std::string(generation.request.policy->name()),
          .model = model.name,
          .is_chat = spec.prompt().has_chat(),
          .num_samples = generation.request.num_samples};
}

bool MergeResponses(v1::GenerateResponse* back, v1::GenerateResponse& next) {
  if (back->has_delta() && next.has_delta()) {
    if (back->delta().sample_index() != next.delta().sample_index()) return false;
    back->mutable_delta()->mutable_text()->append(next.delta().text());
    next.mutable_delta()->clear_text();  // merging would replace the text; lists are appended
    back->mutable_delta()->MergeFrom(next.delta());
    return true;
  }
  if (back->has_progress() && next.has_progress()) {
    back->mutable_progress()->MergeFrom(next.progress());
    return true;
  }
  return false;
}

grpc::ServerWriteReactor<v1::GenerateResponse>* GenerateCall::Start(grpc::CallbackServerContext* context,
                                                                    const v1::GenerateRequest* request,
                                                                    const ServingContext* serving) {
  const std::shared_ptr<GenerateCall> call(new GenerateCall(context, request, serving));
  call->self_ = call;
  serving->calls->AddStream(call);
  absl::Status status = call->Admit();
  if (status.ok() && !serving->text_pool->TryRun([call] { call->ParseAndSubmit(); })) status = TextPoolFull();
  if (!status.ok()) call->Refuse(status);
  return call.get();
}

GenerateCall::GenerateCall(grpc::CallbackServerContext* context, const v1::GenerateRequest* request,
                           const ServingContext* serving)
    : StreamReactor(context, kMethod, serving->metrics),
      request_(request),
      serving_(serving),
      log_(kMethod, OriginOf(*context, *serving->config), serving->metrics),
      deadline_(DeadlineOf(*context, *serving->config)) {}

absl::Status GenerateCall::Admit() {
  MutexLock lock(&mutex_);
  const int64_t samples = request_->spec().sampling().n();
  return AdmitCall(
      *context(), log_,
      {.bytes = static_cast<int64_t>(request_->ByteSizeLong()), .slots = std::clamp<int64_t>(samples, 1, kMaxSamples)},
      *serving_, &slot_, &ticket_);
}

void GenerateCall::ParseAndSubmit() {
  absl::StatusOr<std::shared_ptr<DeliverySink>> sink = Submit();
  if (!sink.ok()) return Refuse(sink.status());
  bool cancelled = false;
  {
    MutexLock lock(&mutex_);
    sink_ = *sink;
    cancelled = cancelled_;
  }
  if (cancelled) (*sink)->Cancel();
}

absl::StatusOr<std::shared_ptr<DeliverySink>> GenerateCall::Submit() {
  {
    MutexLock lock(&mutex_);
    if (cancelled_) return MakeError(absl::StatusCode::kCancelled, reason::kCancelled, "the call was cancelled");
  }
  FARSPAN_ASSIGN_OR_RETURN(ParsedGeneration generation,
                           ParseGeneration(*request_, FactsOf(log_, deadline_, *serving_->config), *serving_->model));
  num_samples_ = generation.request.num_samples;
  log_.SetGeneration(Logged(generation, request_->spec(), *serving_->model));
  {
    // Before the engine counts the request: counted twice, it would have others refused who fit.
    MutexLock lock(&mutex_);
    ticket_.LeaveQueue();
  }
  return StartGeneration(std::move(generation), shared_from_this(), *serving_);
}

void GenerateCall::OnEnd(const GenerationOutcome& outcome) {
  log_.SetOutcome(outcome);
  log_.End(LoggedStatus(outcome.status), /*accepted=*/true);
  serving_->gate->OnRequestEnded(num_samples_);
  Leave();
  End(WithRetryHint(outcome.status, serving_->gate));
}

void GenerateCall::Refuse(const absl::Status& status) {
  log_.End(status, /*accepted=*/false);
  Leave();
  End(WithRetryHint(status, serving_->gate));
}

void GenerateCall::Leave() {
  MutexLock lock(&mutex_);
  ticket_.Release();
  slot_.Release();
}

void GenerateCall::OnCancel() {
  if (IsEndOfDeadline(deadline_, std::chrono::steady_clock::now())) return;
  std::shared_ptr<DeliverySink> sink;
  {
    MutexLock lock(&mutex_);
    cancelled_ = true;
    sink = sink_;
  }
  if (sink) sink->Cancel();
}

}  // namespace farspan
