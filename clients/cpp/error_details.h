// SPDX-License-Identifier: Apache-2.0
// What a failed call says beside its code and message: the google.rpc details that the server attached.
#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "google/rpc/error_details.pb.h"

namespace farspan {

struct ErrorDetails {
  google::rpc::ErrorInfo info;          // an empty reason where the server sent none
  google::rpc::BadRequest bad_request;  // without violations where the server sent none
  std::optional<absl::Duration> retry_delay;
  std::string request_id;
};

// The details of a status that a Client returned; empty ones for any other status. Malformed details count as absent.
ErrorDetails ErrorDetailsOf(const absl::Status& status);

}  // namespace farspan
