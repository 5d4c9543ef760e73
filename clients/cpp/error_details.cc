// SPDX-License-Identifier: Apache-2.0
#include "clients/cpp/error_details.h"

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"

namespace farspan {
namespace {

template <typename Detail>
Detail Payload(const absl::Status& status) {
  Detail detail;
  const auto bytes = status.GetPayload(absl::StrCat("type.googleapis.com/", Detail::descriptor()->full_name()));
  if (bytes && !detail.ParseFromString(std::string(*bytes))) detail.Clear();
  return detail;
}

}  // namespace

ErrorDetails ErrorDetailsOf(const absl::Status& status) {
  ErrorDetails details;
  details.info = Payload<google::rpc::ErrorInfo>(status);
  details.bad_request = Payload<google::rpc::BadRequest>(status);
  details.request_id = Payload<google::rpc::RequestInfo>(status).request_id();
  const auto retry = Payload<google::rpc::RetryInfo>(status);
  if (retry.has_retry_delay()) {
    details.retry_delay = absl::Seconds(retry.retry_delay().seconds()) + absl::Nanoseconds(retry.retry_delay().nanos());
  }
  return details;
}

}  // namespace farspan
