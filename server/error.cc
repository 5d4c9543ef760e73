// SPDX-License-Identifier: Apache-2.0
#include "server/error.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "google/rpc/error_details.pb.h"

namespace farspan {
namespace {

constexpr absl::string_view kDomain = "farspan";

std::string TypeUrl(const google::protobuf::Message& message) {
  return absl::StrCat("type.googleapis.com/", message.GetDescriptor()->full_name());
}

void AddDetail(const google::protobuf::Message& detail, absl::Status* status) {
  status->SetPayload(TypeUrl(detail), absl::Cord(detail.SerializeAsString()));
}

}  // namespace

absl::Status MakeError(absl::StatusCode code, absl::string_view reason, absl::string_view message,
                       const ErrorMetadata& metadata) {
  google::rpc::ErrorInfo info;
  info.set_reason(std::string(reason));
  info.set_domain(std::string(kDomain));
  for (const auto& [key, value] : metadata) (*info.mutable_metadata())[key] = value;
  absl::Status status(code, message);
  AddDetail(info, &status);
  return status;
}

absl::Status InvalidFields(const std::vector<FieldViolation>& violations, absl::string_view reason,
                           const ErrorMetadata& metadata) {
  std::string message = Sentence(violations.front());
  if (violations.size() > 1) absl::StrAppend(&message, " (and ", violations.size() - 1, " more)");
  absl::Status status = MakeError(absl::StatusCode::kInvalidArgument, reason, message, metadata);
  google::rpc::BadRequest bad_request;
  for (const FieldViolation& violation : violations) {
    google::rpc::BadRequest::FieldViolation* detail = bad_request.add_field_violations();
    detail->set_field(violation.field);
    detail->set_description(violation.description);
  }
  AddDetail(bad_request, &status);
  return status;
}

absl::Status WithRetryAfter(absl::Status status, SteadyDuration delay) {
  const int64_t nanoseconds = std::chrono::duration_cast<std::chrono::nanoseconds>(delay).count();
  google::rpc::RetryInfo info;
  info.mutable_retry_delay()->set_seconds(nanoseconds / 1'000'000'000);
  info.mutable_retry_delay()->set_nanos(static_cast<int32_t>(nanoseconds % 1'000'000'000));
  AddDetail(info, &status);
  return status;
}

absl::Status EndedEarly(const FinishedEvent& event) {
  const ErrorMetadata metadata = {{"phase", std::string(PhaseName(event.phase))},
                                  {"tokens", absl::StrCat(event.statistics.generated_tokens)}};
  switch (event.reason) {
    case FinishReason::kDeadline:
      return MakeError(absl::StatusCode::kDeadlineExceeded, reason::kDeadlineExceeded,
                       absl::StrCat("the deadline passed in phase ", PhaseName(event.phase), " after ",
                                    event.statistics.generated_tokens, " tokens"),
                       metadata);
    case FinishReason::kCancelled:
      if (absl::IsUnavailable(event.status)) {
        return MakeError(absl::StatusCode::kUnavailable, reason::kDraining, "the server is shutting down", metadata);
      }
      return MakeError(absl::StatusCode::kCancelled, reason::kCancelled, "the call was cancelled", metadata);
    case FinishReason::kQueueTimeout:
      return MakeError(absl::StatusCode::kResourceExhausted, reason::kQueueTimeout,
                       "the request waited for max_queue_duration without being started", metadata);
    case FinishReason::kStop:
    case FinishReason::kLength:
    case FinishReason::kError:
      break;
  }
  if (absl::IsUnavailable(event.status)) {
    return MakeError(absl::StatusCode::kUnavailable, reason::kDeviceLost, "the device that runs the model failed",
                     metadata);
  }
  if (absl::IsResourceExhausted(event.status)) {
    return MakeError(absl::StatusCode::kResourceExhausted, reason::kOutOfMemory, event.status.message(), metadata);
  }
  // The engine's own words may name internals; they are logged, not sent.
  return MakeError(absl::StatusCode::kInternal, reason::kInternal, "the request failed inside the server", metadata);
}

std::string ReasonOf(const absl::Status& status) {
  google::rpc::ErrorInfo info;
  const absl::optional<absl::Cord> payload = status.GetPayload(TypeUrl(info));
  if (!payload || !info.ParseFromString(std::string(*payload))) return "";
  return info.reason();
}

}  // namespace farspan
