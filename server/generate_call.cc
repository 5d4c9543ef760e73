// SPDX-License-Identifier: Apache-2.0
#include "server/generate_call.h"

#include <utility>

#include "engine/base/status_macros.h"
#include "server/error.h"
#include "server/request_parser.h"

namespace farspan {
namespace {

constexpr absl::string_view kMethod = "Generate";

}  // namespace

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
  if (status.ok() && !serving->text_pool->TryRun([call] { call->ParseAndSubmit(); })) {
    status = WithRetryAfter(MakeError(absl::StatusCode::kResourceExhausted, reason::kQueueFull,
                                      "the queue is full: too many requests wait to be read"),
                            serving->gate->RetryDelay());
  }
  if (!status.ok()) call->Refuse(status);
  return call.get();
}

GenerateCall::GenerateCall(grpc::CallbackServerContext* context, const v1::GenerateRequest* request,
                           const ServingContext* serving)
    : StreamReactor(context, kMethod, serving->metrics),
      request_(request),
      serving_(serving),
      log_(kMethod, serving->metrics),
      deadline_(DeadlineOf(*context, *serving->config)) {}

absl::Status GenerateCall::Admit() {
  const auto bytes = static_cast<int64_t>(request_->ByteSizeLong());
  serving_->metrics->OnMessage(kMethod, MessageDirection::kReceived, bytes);
  FARSPAN_RETURN_IF_ERROR(CheckRequestSize(bytes, *serving_->config));
  FARSPAN_ASSIGN_OR_RETURN(slot_, serving_->calls->Enter(context()->peer()));
  FARSPAN_ASSIGN_OR_RETURN(ticket_, serving_->gate->Take(bytes));
  return absl::OkStatus();
}

void GenerateCall::ParseAndSubmit() {
  absl::StatusOr<std::shared_ptr<DeliverySink>> sink = Submit();
  // The engine counts the request from here on.
  ticket_.Release();
  if (!sink.ok()) return Refuse(sink.status());
  bool cancelled = false;
  {
    MutexLock lock(&cancel_mutex_);
    sink_ = *sink;
    cancelled = cancelled_;
  }
  if (cancelled) (*sink)->Cancel();
}

absl::StatusOr<std::shared_ptr<DeliverySink>> GenerateCall::Submit() {
  {
    MutexLock lock(&cancel_mutex_);
    if (cancelled_) return MakeError(absl::StatusCode::kCancelled, reason::kCancelled, "the call was cancelled");
  }
  FARSPAN_ASSIGN_OR_RETURN(
      ParsedGeneration generation,
      ParseGeneration(*request_,
                      {.request_id = log_.request_id(),
                       .arrival = log_.arrival(),
                       .deadline = deadline_,
                       .max_queue_duration = std::chrono::seconds(serving_->config->max_queue_seconds)},
                      *serving_->model));
  policy_ = std::string(generation.request.policy->name());
  return StartGeneration(std::move(generation), shared_from_this(), *serving_);
}

void GenerateCall::OnEnd(const GenerationOutcome& outcome) {
  log_.SetOutcome(policy_, outcome);
  log_.End(LoggedStatus(outcome.status), /*accepted=*/true);
  serving_->gate->OnRequestEnded();
  slot_.Release();
  End(absl::IsUnavailable(outcome.status) ? WithRetryAfter(outcome.status, serving_->gate->RetryDelay())
                                          : outcome.status);
}

void GenerateCall::Refuse(const absl::Status& status) {
  log_.End(status, /*accepted=*/false);
  slot_.Release();
  End(status);
}

void GenerateCall::OnCancel() {
  // gRPC also says so when the deadline passes; the engine ends the request then by itself, and with the true reason.
  if (std::chrono::steady_clock::now() >= deadline_) return;
  std::shared_ptr<DeliverySink> sink;
  {
    MutexLock lock(&cancel_mutex_);
    cancelled_ = true;
    sink = sink_;
  }
  if (sink) sink->Cancel();
}

}  // namespace farspan
