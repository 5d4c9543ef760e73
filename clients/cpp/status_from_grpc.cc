// SPDX-License-Identifier: Apache-2.0
#include "clients/cpp/status_from_grpc.h"

#include "absl/strings/cord.h"
#include "google/rpc/status.pb.h"

namespace farspan {

absl::Status StatusFromGrpc(const grpc::Status& status) {
  absl::Status result(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
  google::rpc::Status details;
  if (result.ok() || !details.ParseFromString(status.error_details())) return result;
  for (const google::protobuf::Any& detail : details.details()) {
    result.SetPayload(detail.type_url(), absl::Cord(detail.value()));
  }
  return result;
}

}  // namespace farspan
