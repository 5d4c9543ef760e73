// SPDX-License-Identifier: Apache-2.0
#include "server/unary_call.h"

#include <memory>
#include <utility>

#include "engine/base/status_macros.h"
#include "server/call_log.h"
#include "server/error.h"
#include "server/status_grpc.h"

namespace farspan {
namespace {

// Shared by the gRPC thread and the text pool, one after the other.
struct UnaryCall {
  UnaryCall(grpc::CallbackServerContext* call_context, absl::string_view call_method,
            const google::protobuf::Message* call_response, ServerMetrics* server_metrics)
      : context(call_context),
        reactor(call_context->DefaultReactor()),
        method(call_method),
        response(call_response),
        metrics(server_metrics),
        log(method, metrics) {}

  absl::Status Admit(const ServingContext& serving, int64_t request_bytes) {
    metrics->OnMessage(method, MessageDirection::kReceived, request_bytes);
    FARSPAN_RETURN_IF_ERROR(CheckRequestSize(request_bytes, *serving.config));
    FARSPAN_ASSIGN_OR_RETURN(slot, serving.calls->Enter(context->peer()));
    FARSPAN_ASSIGN_OR_RETURN(ticket, serving.gate->Take(request_bytes));
    return absl::OkStatus();
  }

  void End(const absl::Status& status, bool accepted) {
    log.End(status, accepted);
    if (status.ok()) {
      metrics->OnMessage(method, MessageDirection::kSent, static_cast<int64_t>(response->ByteSizeLong()));
    }
    ticket.Release();
    slot.Release();
    if (const std::optional<int64_t> pushback = RetryPushbackMilliseconds(status)) {
      context->AddTrailingMetadata("grpc-retry-pushback-ms", std::to_string(*pushback));
    }
    reactor->Finish(ToGrpcStatus(status));
  }

  grpc::CallbackServerContext* const context;
  grpc::ServerUnaryReactor* const reactor;
  const absl::string_view method;
  const google::protobuf::Message* const response;
  ServerMetrics* const metrics;
  CallLog log;
  CallSlot slot;
  AdmissionTicket ticket;
};

}  // namespace

grpc::ServerUnaryReactor* RunUnaryCall(grpc::CallbackServerContext* context, const ServingContext* serving,
                                       absl::string_view method, const google::protobuf::Message& request,
                                       const google::protobuf::Message& response, std::function<absl::Status()> work) {
  const auto call = std::make_shared<UnaryCall>(context, method, &response, serving->metrics);
  grpc::ServerUnaryReactor* const reactor = call->reactor;
  absl::Status status = call->Admit(*serving, static_cast<int64_t>(request.ByteSizeLong()));
  if (status.ok() &&
      !serving->text_pool->TryRun([call, work = std::move(work)] { call->End(work(), /*accepted=*/true); })) {
    status = WithRetryAfter(MakeError(absl::StatusCode::kResourceExhausted, reason::kQueueFull,
                                      "the queue is full: too many requests wait to be read"),
                            serving->gate->RetryDelay());
  }
  if (!status.ok()) call->End(status, /*accepted=*/false);
  return reactor;
}

}  // namespace farspan
