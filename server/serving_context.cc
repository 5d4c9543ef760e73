// SPDX-License-Identifier: Apache-2.0
#include "server/serving_context.h"

#include <algorithm>
#include <atomic>
#include <random>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/status_macros.h"
#include "server/error.h"
#include "server/status_grpc.h"

namespace farspan {
namespace {

absl::string_view QueueLimitReason(const absl::Status& status) {
  const absl::optional<absl::Cord> limit = status.GetPayload(kQueueLimitPayload);
  if (limit && *limit == kQueueLimitTenant) return reason::kTenantQuota;
  if (limit && *limit == kQueueLimitTokens) return reason::kTokensQueued;
  return reason::kQueueFull;
}

// Another attempt may pass where this one did not.
bool IsTransient(const absl::Status& status) {
  if (absl::IsUnavailable(status)) return true;
  const std::string why = ReasonOf(status);
  return why == reason::kQueueFull || why == reason::kTokensQueued || why == reason::kTenantQuota ||
         why == reason::kQueueTimeout || why == reason::kOutOfMemory || why == reason::kConnectionLimit;
}

// The engine's refusals in the words of the error contract.
absl::Status SubmitError(const absl::Status& status, const ServingContext& serving) {
  const Engine& engine = *serving.model->engine;
  switch (status.code()) {
    case absl::StatusCode::kResourceExhausted:
      return MakeError(status.code(), QueueLimitReason(status), status.message());
    case absl::StatusCode::kUnavailable:
      return MakeError(status.code(), engine.stats().fault.ok() ? reason::kDraining : reason::kDeviceLost,
                       status.message());
    case absl::StatusCode::kInvalidArgument:
      return InvalidFields({{"spec", std::string(status.message())}}, reason::kKvNeverFits);
    case absl::StatusCode::kFailedPrecondition:
      return MakeError(status.code(), reason::kPolicyUnsupported, status.message());
    default:
      return status;
  }
}

}  // namespace

std::string NewRequestId() {
  static const uint32_t process = std::random_device()();
  static std::atomic<uint64_t> next{1};
  return absl::StrFormat("%08x-%d", process, next.fetch_add(1, std::memory_order_relaxed));
}

bool HasDeadline(const grpc::CallbackServerContext& context) {
  // Beyond a century there is none; adding such a time to another would overflow.
  constexpr std::chrono::hours kCentury(24 * 365 * 100);
  return context.deadline() < std::chrono::system_clock::now() + kCentury;
}

SteadyTime DeadlineOf(const grpc::CallbackServerContext& context, const ServerConfig& config) {
  const SteadyTime now = std::chrono::steady_clock::now();
  if (HasDeadline(context)) {
    return now + std::chrono::duration_cast<SteadyDuration>(context.deadline() - std::chrono::system_clock::now());
  }
  if (config.max_request_seconds == 0) return kNoDeadline;
  return now + std::chrono::seconds(config.max_request_seconds);
}

bool IsEndOfDeadline(SteadyTime deadline, SteadyTime now) {
  constexpr std::chrono::milliseconds kLongestTransit(50);
  return now + kLongestTransit >= deadline;
}

absl::Status CheckRequestSize(int64_t bytes, const ServerConfig& config) {
  if (bytes <= config.max_request_bytes) return absl::OkStatus();
  return InvalidFields(
      {{"request", absl::StrCat("must have at most ", config.max_request_bytes, " bytes, got ", bytes)}},
      reason::kRequestTooLarge);
}

absl::Status WithRetryHint(absl::Status status, AdmissionGate* gate) {
  if (status.ok() || RetryPushbackMilliseconds(status).has_value() || !IsTransient(status)) return status;
  return WithRetryAfter(std::move(status), gate->RetryDelay());
}

CallOrigin OriginOf(const grpc::CallbackServerContext& context, const ServerConfig& config) {
  return ReadOrigin(context.client_metadata(), config.trust_tenant_header);
}

CallFacts FactsOf(const CallLog& log, SteadyTime deadline, const ServerConfig& config) {
  return {.request_id = log.request_id(),
          .arrival = log.arrival(),
          .deadline = deadline,
          .max_queue_duration = std::chrono::seconds(config.max_queue_seconds),
          .tenant = log.origin().tenant};
}

absl::Status AdmitCall(const grpc::CallbackServerContext& context, const CallLog& log, GateRequest request,
                       const ServingContext& serving, CallSlot* slot, AdmissionTicket* ticket) {
  serving.metrics->OnMessage(log.method(), MessageDirection::kReceived, request.bytes);
  FARSPAN_RETURN_IF_ERROR(CheckRequestSize(request.bytes, *serving.config));
  FARSPAN_RETURN_IF_ERROR(log.origin().refusal);
  FARSPAN_ASSIGN_OR_RETURN(*slot, serving.calls->Enter(context.peer()));
  request.tenant = log.origin().tenant;
  FARSPAN_ASSIGN_OR_RETURN(*ticket, serving.gate->Take(std::move(request)));
  return absl::OkStatus();
}

absl::Status TextPoolFull() {
  return MakeError(absl::StatusCode::kResourceExhausted, reason::kQueueFull,
                   "the queue is full: too many requests wait to be read");
}

absl::StatusOr<std::shared_ptr<DeliverySink>> StartGeneration(ParsedGeneration generation,
                                                              std::shared_ptr<GenerationListener> listener,
                                                              const ServingContext& serving) {
  FARSPAN_ASSIGN_OR_RETURN(
      std::unique_ptr<GenerationStream> stream,
      GenerationStream::Create(std::move(generation.presentation), *serving.model, std::move(listener)));
  auto sink = std::make_shared<DeliverySink>(serving.delivery, std::move(stream));
  absl::StatusOr<std::shared_ptr<RequestHandle>> handle =
      serving.model->engine->Submit(std::move(generation.request), sink);
  if (!handle.ok()) return SubmitError(handle.status(), serving);
  sink->SetHandle(*std::move(handle));
  return sink;
}

}  // namespace farspan
