// SPDX-License-Identifier: Apache-2.0
// The only conversion from absl::Status to what gRPC sends.
#pragma once

#include <optional>

#include <grpcpp/support/status.h>

#include "absl/status/status.h"
#include "engine/base/clock.h"

namespace farspan {

// Code, message (at most 1 KiB, valid UTF-8) and a google.rpc.Status in grpc-status-details-bin with exactly one
// ErrorInfo. An INTERNAL status that was not made for clients loses its message, which belongs in the log.
grpc::Status ToGrpcStatus(const absl::Status& status);

// The RetryInfo of a status, for the trailer grpc-retry-pushback-ms.
std::optional<int64_t> RetryPushbackMilliseconds(const absl::Status& status);

}  // namespace farspan
