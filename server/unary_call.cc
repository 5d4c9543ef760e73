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
  UnaryCall(grpc::CallbackServerContext* call_context, absl::string_view method,
            const google::protobuf::Message* call_response, const ServingContext& serving_context)
      : context(call_context),
        reactor(call_context->DefaultReactor()),
        response(call_response),
        serving(serving_context),
        log(method, OriginOf(*call_context, *serving.config), serving.metrics) {}

  void End(const absl::Status& result, bool accepted) {
    log.End(result, accepted);
    const absl::Status status = WithRetryHint(result, serving.gate);
    if (status.ok()) {
      serving.metrics->OnMessage(log.method(), MessageDirection::kSent, static_cast<int64_t>(response->ByteSizeLong()));
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
  const google::protobuf::Message* const response;
  const ServingContext& serving;
  CallLog log;
  CallSlot slot;
  AdmissionTicket ticket;
};

}  // namespace

grpc::ServerUnaryReactor* RunUnaryCall(grpc::CallbackServerContext* context, const ServingContext* serving,
                                       absl::string_view method, const google::protobuf::Message& request,
                                       const google::protobuf::Message& response, std::function<absl::Status()> work) {
  const auto call = std::make_shared<UnaryCall>(context, method, &response, *serving);
  grpc::ServerUnaryReactor* const reactor = call->reactor;
  absl::Status status = AdmitCall(*context, call->log, {.bytes = static_cast<int64_t>(request.ByteSizeLong())},
                                  *serving, &call->slot, &call->ticket);
  if (status.ok() &&
      !serving->text_pool->TryRun([call, work = std::move(work)] { call->End(work(), /*accepted=*/true); })) {
    status = TextPoolFull();
  }
  if (!status.ok()) call->End(status, /*accepted=*/false);
  return reactor;
}

}  // namespace farspan
