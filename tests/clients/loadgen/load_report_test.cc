// SPDX-License-Identifier: Apache-2.0
#include "clients/loadgen/load_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/cord.h"
#include "google/rpc/error_details.pb.h"

namespace farspan::loadgen {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

RunTime Ms(int64_t ms) { return std::chrono::milliseconds(ms); }

v1::GenerateResponse Chunk(int tokens, int32_t sample = 0) {
  v1::GenerateResponse event;
  for (int i = 0; i < tokens; ++i) event.mutable_delta()->add_token_ids(i);
  event.mutable_delta()->set_sample_index(sample);
  return event;
}

v1::GenerateResponse Finished(int64_t prompt, int64_t generated) {
  v1::GenerateResponse event;
  v1::GenerationFinished* const finished = event.mutable_finished();
  finished->mutable_usage()->set_prompt_tokens_count(prompt);
  finished->mutable_usage()->set_generated_tokens_count(generated);
  finished->mutable_kv()->set_prefill_read_bytes(100);
  finished->mutable_kv()->set_decode_read_bytes(20);
  finished->mutable_kv()->set_prefill_dense_read_bytes(300);
  finished->mutable_kv()->set_peak_resident_bytes(prompt * 10);
  return event;
}

absl::Status Refusal(absl::StatusCode code, const std::string& reason) {
  absl::Status status(code, "too much");
  google::rpc::ErrorInfo info;
  info.set_reason(reason);
  status.SetPayload("type.googleapis.com/google.rpc.ErrorInfo", absl::Cord(info.SerializeAsString()));
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(1);
  status.SetPayload("type.googleapis.com/google.rpc.RetryInfo", absl::Cord(retry.SerializeAsString()));
  return status;
}

RequestRecord SentAt(int64_t due_ms, int64_t sent_ms) {
  RequestRecord record;
  record.sent = true;
  record.clock_start = Ms(due_ms);
  record.sent_at = Ms(sent_ms);
  return record;
}

// Due at 1000, sent 5 ms late; tokens at 1100 (one), 1150 (two) and 1190 (one); done at 1200.
RequestRecord GoodRequest() {
  RequestRecord record = SentAt(1000, 1005);
  record.OnEvent(Chunk(1), Ms(1100));
  record.OnEvent(Chunk(2), Ms(1150));
  record.OnEvent(Chunk(1), Ms(1190));
  record.OnEvent(Finished(50, 4), Ms(1200));
  record.OnDone(absl::OkStatus(), Ms(1200));
  return record;
}

TEST(RequestRecordTest, LatenciesCountFromWhenTheRequestWasDue) {
  const RequestRecord record = GoodRequest();
  EXPECT_EQ(record.fate, Fate::kOk);
  EXPECT_DOUBLE_EQ(*record.ttft(), 0.1);
  EXPECT_DOUBLE_EQ(*record.e2el(), 0.19) << "to the last token, not to the end of the call";
  EXPECT_DOUBLE_EQ(*record.tpot(), 0.03) << "90 ms over the three tokens after the first";
  EXPECT_THAT(record.gaps_seconds, ElementsAre(0.05f, 0.04f)) << "a gap a chunk, however many tokens it holds";
  EXPECT_EQ(record.read_bytes, 120);
}

TEST(RequestRecordTest, OneTokenHasNoTimePerOutputToken) {
  RequestRecord record = SentAt(0, 0);
  record.OnEvent(Chunk(1), Ms(10));
  record.OnEvent(Finished(5, 1), Ms(11));
  record.OnDone(absl::OkStatus(), Ms(11));
  EXPECT_TRUE(record.ttft().has_value());
  EXPECT_FALSE(record.tpot().has_value());
  EXPECT_TRUE(record.gaps_seconds.empty());
}

TEST(RequestRecordTest, SamplesHaveTheirOwnGapsAndTheLongestCounts) {
  RequestRecord record = SentAt(0, 0);
  record.OnEvent(Chunk(1, 0), Ms(10));
  record.OnEvent(Chunk(1, 1), Ms(11));
  record.OnEvent(Chunk(1, 0), Ms(30));
  record.OnEvent(Chunk(1, 1), Ms(41));
  v1::GenerateResponse finished = Finished(5, 5);
  finished.mutable_finished()->add_samples()->set_generated_tokens_count(2);
  finished.mutable_finished()->add_samples()->set_generated_tokens_count(3);
  record.OnEvent(finished, Ms(50));
  record.OnDone(absl::OkStatus(), Ms(50));
  EXPECT_THAT(record.gaps_seconds, ElementsAre(0.02f, 0.03f));
  EXPECT_DOUBLE_EQ(*record.tpot(), 0.0155);
  EXPECT_EQ(record.output_tokens, 5);
}

TEST(RequestRecordTest, EveryEndHasOneFate) {
  const auto fate_of = [](const absl::Status& status, bool answered) {
    RequestRecord record = SentAt(0, 0);
    if (answered) record.OnEvent(Chunk(1), Ms(1));
    record.OnDone(status, Ms(2));
    return record.fate;
  };
  EXPECT_EQ(fate_of(Refusal(absl::StatusCode::kResourceExhausted, "QUEUE_FULL"), false), Fate::kRejected);
  EXPECT_EQ(fate_of(Refusal(absl::StatusCode::kResourceExhausted, "SLOW_READER"), true), Fate::kFailed);
  EXPECT_EQ(fate_of(Refusal(absl::StatusCode::kUnavailable, "DRAINING"), false), Fate::kRejected);
  EXPECT_EQ(fate_of(absl::UnavailableError("connection refused"), false), Fate::kFailed);
  EXPECT_EQ(fate_of(absl::DeadlineExceededError(""), true), Fate::kDeadline);
  EXPECT_EQ(fate_of(absl::CancelledError(""), true), Fate::kCancelled);
  EXPECT_EQ(fate_of(absl::InvalidArgumentError("x"), false), Fate::kFailed);
  EXPECT_EQ(fate_of(absl::OkStatus(), true), Fate::kFailed) << "a stream without its last event";
}

TEST(RequestRecordTest, ErrorsNameCodeAndReason) {
  RequestRecord record = SentAt(0, 0);
  record.OnDone(Refusal(absl::StatusCode::kResourceExhausted, "QUEUE_FULL"), Ms(3));
  EXPECT_EQ(record.error, "RESOURCE_EXHAUSTED QUEUE_FULL");
  EXPECT_EQ(record.message, "too much");
  EXPECT_TRUE(record.has_retry_delay);
}

TEST(LoadReportTest, AddsUpToALedgerAndRates) {
  const RequestRecord good = GoodRequest();
  RequestRecord rejected = SentAt(1000, 1000);
  rejected.OnDone(Refusal(absl::StatusCode::kResourceExhausted, "QUEUE_FULL"), Ms(1004));
  RequestRecord cancelled = SentAt(1100, 1100);
  cancelled.OnEvent(Chunk(3), Ms(1150));
  cancelled.OnDone(absl::CancelledError(""), Ms(1160));
  const RequestRecord unsent;
  const LoadReport report =
      MakeReport({&good, &rejected, &cancelled, &unsent}, Ms(2000), {.percents = {50}, .service_level = {.ttft = 0.2}});
  EXPECT_EQ(report.ledger.sent, 3);
  EXPECT_EQ(report.ledger.not_sent, 1);
  EXPECT_EQ(report.ledger.Count(Fate::kOk), 1);
  EXPECT_EQ(report.ledger.Count(Fate::kRejected), 1);
  EXPECT_EQ(report.ledger.Count(Fate::kCancelled), 1);
  EXPECT_EQ(report.ledger.rejected_with_retry_delay, 1);
  EXPECT_EQ(report.ledger.by_error.at("RESOURCE_EXHAUSTED QUEUE_FULL"), 1);
  EXPECT_DOUBLE_EQ(report.request_throughput, 0.5);
  EXPECT_DOUBLE_EQ(report.output_throughput, 2) << "tokens of requests that were not OK do not count";
  EXPECT_DOUBLE_EQ(report.total_token_throughput, 27);
  EXPECT_DOUBLE_EQ(*report.request_goodput, 0.5);
  EXPECT_EQ(report.max_concurrent_requests, 2);
  EXPECT_EQ(report.ttft.count, 1u);
  EXPECT_DOUBLE_EQ(report.ttft.median, 100);
  EXPECT_DOUBLE_EQ(report.reject.median, 4);
  EXPECT_DOUBLE_EQ(report.send_delay.maximum, 5);
  EXPECT_EQ(report.peak_kv_bytes, 500);
}

TEST(LoadReportTest, DurationEndsWithTheLastCall) { EXPECT_EQ(RunDuration({GoodRequest(), SentAt(0, 0)}), Ms(1200)); }

TEST(ServiceLevelTest, EveryBoundMustHold) {
  const RequestRecord record = GoodRequest();
  EXPECT_TRUE((ServiceLevel{.ttft = 0.1, .tpot = 0.03, .e2el = 0.2}).Holds(record));
  EXPECT_FALSE((ServiceLevel{.ttft = 0.099}).Holds(record));
  EXPECT_FALSE((ServiceLevel{.ttft = 0.5, .tpot = 0.029}).Holds(record));
  EXPECT_FALSE((ServiceLevel{.e2el = 0.18}).Holds(record));
  EXPECT_TRUE(ServiceLevel{}.Holds(record));
  EXPECT_FALSE(ServiceLevel{}.Holds(SentAt(0, 0)));
}

TEST(ServiceLevelTest, ParsesMilliseconds) {
  ServiceLevel level;
  ASSERT_TRUE(ParseServiceLevel("tpot:2.5", &level).ok());
  EXPECT_DOUBLE_EQ(*level.tpot, 0.0025);
  for (const char* bad : {"", "ttft", "ttft:", "ttft:0", "ttft:-1", "ttft:nan", "itl:5", "ttft:1e300"}) {
    EXPECT_THAT(std::string(ParseServiceLevel(bad, &level).message()), HasSubstr("must be ttft:MS")) << bad;
  }
}

}  // namespace
}  // namespace farspan::loadgen
