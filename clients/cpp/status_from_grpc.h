// SPDX-License-Identifier: Apache-2.0
// The only conversion of a gRPC status into an absl::Status.
#pragma once

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace farspan {

// Keeps code and message; each of the google.rpc details becomes a payload under its type URL.
absl::Status StatusFromGrpc(const grpc::Status& status);

}  // namespace farspan
