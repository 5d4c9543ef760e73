// SPDX-License-Identifier: Apache-2.0
#include "server/error.h"

#include <gmock/gmock.h>

#include "engine/text/utf8.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "server/status_grpc.h"

namespace farspan {
namespace {

google::rpc::Status Details(const grpc::Status& status) {
  google::rpc::Status details;
  EXPECT_TRUE(details.ParseFromString(status.error_details()));
  return details;
}

template <typename Detail>
std::vector<Detail> DetailsOf(const grpc::Status& status) {
  std::vector<Detail> found;
  const google::rpc::Status details = Details(status);
  for (const google::protobuf::Any& any : details.details()) {
    Detail detail;
    if (any.UnpackTo(&detail)) found.push_back(detail);
  }
  return found;
}

TEST(ErrorTest, InvalidFieldsCarryOneErrorInfoAndEveryField) {
  const grpc::Status status = ToGrpcStatus(InvalidFields({{"spec.a", "must be 1, got 2"}, {"spec.b", "must be set"}}));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(status.error_message(), "spec.a: must be 1, got 2 (and 1 more)");
  const auto infos = DetailsOf<google::rpc::ErrorInfo>(status);
  ASSERT_EQ(infos.size(), 1u);
  EXPECT_EQ(infos[0].domain(), "farspan");
  EXPECT_EQ(infos[0].reason(), "INVALID_FIELD");
  const auto requests = DetailsOf<google::rpc::BadRequest>(status);
  ASSERT_EQ(requests.size(), 1u);
  ASSERT_EQ(requests[0].field_violations_size(), 2);
  EXPECT_EQ(requests[0].field_violations(1).field(), "spec.b");
}

TEST(ErrorTest, RetryInfoIsADetailAndAPushback) {
  const absl::Status status = WithRetryAfter(
      MakeError(absl::StatusCode::kResourceExhausted, reason::kQueueFull, "full"), std::chrono::milliseconds(1250));
  EXPECT_EQ(RetryPushbackMilliseconds(status), 1250);
  const auto infos = DetailsOf<google::rpc::RetryInfo>(ToGrpcStatus(status));
  ASSERT_EQ(infos.size(), 1u);
  EXPECT_EQ(infos[0].retry_delay().seconds(), 1);
  EXPECT_EQ(infos[0].retry_delay().nanos(), 250'000'000);
  EXPECT_EQ(RetryPushbackMilliseconds(absl::InternalError("")), std::nullopt);
}

TEST(ErrorTest, EveryStatusHasExactlyOneErrorInfo) {
  for (const absl::Status& status :
       {absl::NotFoundError("x"), absl::UnavailableError("x"), absl::InternalError("x"),
        WithRetryAfter(MakeError(absl::StatusCode::kUnavailable, reason::kDraining, "x"), std::chrono::seconds(1))}) {
    EXPECT_EQ(DetailsOf<google::rpc::ErrorInfo>(ToGrpcStatus(status)).size(), 1u) << status;
  }
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok());
}

TEST(ErrorTest, InternalWordsStayInside) {
  const grpc::Status status = ToGrpcStatus(absl::InternalError("page table at 0x7ffd /root/model.gguf"));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_EQ(status.error_message(), "the request failed inside the server");
  FinishedEvent failed;
  failed.status = absl::InternalError("logit 3 is NaN at 0x1234");
  EXPECT_EQ(EndedEarly(failed).message(), "the request failed inside the server");
}

TEST(ErrorTest, LongMessagesAreCutBetweenCharacters) {
  std::string text;
  for (int i = 0; i < 1000; ++i) text += "\xC3\xA4";
  const grpc::Status status = ToGrpcStatus(absl::NotFoundError("x" + text));
  EXPECT_LE(status.error_message().size(), 1024u);
  EXPECT_GE(status.error_message().size(), 1020u);
  EXPECT_EQ(FindInvalidUtf8(status.error_message()), std::nullopt);
}

TEST(ErrorTest, DeadlineSaysPhaseAndTokens) {
  FinishedEvent event;
  event.reason = FinishReason::kDeadline;
  event.phase = RequestPhase::kDecode;
  event.statistics.generated_tokens = 7;
  const grpc::Status status = ToGrpcStatus(EndedEarly(event));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  const google::rpc::ErrorInfo info = DetailsOf<google::rpc::ErrorInfo>(status).at(0);
  EXPECT_EQ(info.metadata().at("phase"), "decode");
  EXPECT_EQ(info.metadata().at("tokens"), "7");
}

TEST(ErrorTest, CancelTellsAShutdownFromAClient) {
  FinishedEvent event;
  event.reason = FinishReason::kCancelled;
  event.status = absl::CancelledError("");
  EXPECT_EQ(EndedEarly(event).code(), absl::StatusCode::kCancelled);
  event.status = absl::UnavailableError("");
  EXPECT_EQ(EndedEarly(event).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(EndedEarly(event)), "DRAINING");
}

}  // namespace
}  // namespace farspan
