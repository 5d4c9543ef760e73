// SPDX-License-Identifier: Apache-2.0
// Errors as values: absl::Status with details of google.rpc as payloads, keyed by their type URLs. Every reason that a
// client may see is listed here.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "engine/base/clock.h"
#include "engine/output.h"
#include "server/request_rules.h"

namespace farspan {

// Reasons in google.rpc.ErrorInfo; the domain is always "farspan".
namespace reason {
inline constexpr absl::string_view kInvalidField = "INVALID_FIELD";
inline constexpr absl::string_view kRequestTooLarge = "REQUEST_TOO_LARGE";
inline constexpr absl::string_view kPromptTooLong = "PROMPT_TOO_LONG";
inline constexpr absl::string_view kKvNeverFits = "KV_NEVER_FITS";
inline constexpr absl::string_view kChatUnsupported = "CHAT_UNSUPPORTED";
inline constexpr absl::string_view kPolicyUnsupported = "POLICY_UNSUPPORTED";
inline constexpr absl::string_view kModelNotFound = "MODEL_NOT_FOUND";
inline constexpr absl::string_view kQueueFull = "QUEUE_FULL";
inline constexpr absl::string_view kTokensQueued = "TOKENS_QUEUED";
inline constexpr absl::string_view kTenantQuota = "TENANT_QUOTA";
inline constexpr absl::string_view kQueueTimeout = "QUEUE_TIMEOUT";
inline constexpr absl::string_view kConnectionLimit = "CONNECTION_LIMIT";
inline constexpr absl::string_view kSlowReader = "SLOW_READER";
inline constexpr absl::string_view kOutOfMemory = "OUT_OF_MEMORY";
inline constexpr absl::string_view kDraining = "DRAINING";
inline constexpr absl::string_view kDeviceLost = "DEVICE_LOST";
inline constexpr absl::string_view kDeadlineExceeded = "DEADLINE_EXCEEDED";
inline constexpr absl::string_view kCancelled = "CANCELLED";
inline constexpr absl::string_view kInternal = "INTERNAL";
}  // namespace reason

using ErrorMetadata = std::vector<std::pair<std::string, std::string>>;

absl::Status MakeError(absl::StatusCode code, absl::string_view reason, absl::string_view message,
                       const ErrorMetadata& metadata = {});

// INVALID_ARGUMENT with a BadRequest of all violations; the message is the first one's sentence. Not empty.
absl::Status InvalidFields(const std::vector<FieldViolation>& violations,
                           absl::string_view reason = reason::kInvalidField, const ErrorMetadata& metadata = {});

// Adds RetryInfo; the edge also sends it as grpc-retry-pushback-ms.
absl::Status WithRetryAfter(absl::Status status, SteadyDuration delay);

// Why a request of the engine ended early, in the words of the error contract.
absl::Status EndedEarly(const FinishedEvent& event);

// The ErrorInfo's reason; empty if there is none.
std::string ReasonOf(const absl::Status& status);

}  // namespace farspan
