// SPDX-License-Identifier: Apache-2.0
#include "server/status_grpc.h"

#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/string_view.h"
#include "engine/text/utf8.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "server/error.h"

namespace farspan {
namespace {

constexpr size_t kMaxMessageBytes = 1024;
constexpr absl::string_view kRetryInfoType = "type.googleapis.com/google.rpc.RetryInfo";

std::string Clipped(absl::string_view message) {
  std::string text;
  AppendUtf8Lossy(std::string(message), /*final=*/true, text);
  if (text.size() <= kMaxMessageBytes) return text;
  std::string clipped;
  AppendUtf8Lossy(text.substr(0, kMaxMessageBytes), /*final=*/false, clipped);
  return clipped;
}

absl::Status WithReason(const absl::Status& status) {
  if (!ReasonOf(status).empty()) return status;
  if (absl::IsInternal(status) || absl::IsUnknown(status)) {
    return MakeError(absl::StatusCode::kInternal, reason::kInternal, "the request failed inside the server");
  }
  return MakeError(status.code(), absl::StatusCodeToString(status.code()), status.message());
}

}  // namespace

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const absl::Status described = WithReason(status);
  google::rpc::Status details;
  details.set_code(static_cast<int32_t>(described.code()));
  details.set_message(Clipped(described.message()));
  described.ForEachPayload([&](absl::string_view type_url, const absl::Cord& value) {
    google::protobuf::Any* any = details.add_details();
    any->set_type_url(std::string(type_url));
    any->set_value(std::string(value));
  });
  return grpc::Status(static_cast<grpc::StatusCode>(described.code()), details.message(), details.SerializeAsString());
}

std::optional<int64_t> RetryPushbackMilliseconds(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kRetryInfoType);
  google::rpc::RetryInfo info;
  if (!payload || !info.ParseFromString(std::string(*payload))) return std::nullopt;
  return info.retry_delay().seconds() * 1000 + info.retry_delay().nanos() / 1'000'000;
}

}  // namespace farspan
