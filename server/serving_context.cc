// SPDX-License-Identifier: Apache-2.0
#include "server/serving_context.h"

#include <algorithm>
#include <atomic>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/status_macros.h"
#include "server/error.h"

namespace farspan {
namespace {

// The engine's refusals in the words of the error contract.
absl::Status SubmitError(const absl::Status& status, const ServingContext& serving) {
  const Engine& engine = *serving.model->engine;
  switch (status.code()) {
    case absl::StatusCode::kResourceExhausted: {
      const EngineStats stats = engine.stats();
      const bool by_count = stats.requests_queued >= engine.config().max_num_queued_requests;
      return WithRetryAfter(
          MakeError(status.code(), by_count ? reason::kQueueFull : reason::kTokensQueued, status.message()),
          serving.gate->RetryDelay());
    }
    case absl::StatusCode::kUnavailable:
      return WithRetryAfter(
          MakeError(status.code(), engine.stats().fault.ok() ? reason::kDraining : reason::kDeviceLost,
                    status.message()),
          serving.gate->RetryDelay());
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

absl::Status CheckRequestSize(int64_t bytes, const ServerConfig& config) {
  if (bytes <= config.max_request_bytes) return absl::OkStatus();
  return InvalidFields(
      {{"request", absl::StrCat("must have at most ", config.max_request_bytes, " bytes, got ", bytes)}},
      reason::kRequestTooLarge);
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
