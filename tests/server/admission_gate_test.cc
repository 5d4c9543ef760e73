// SPDX-License-Identifier: Apache-2.0
#include "server/admission_gate.h"

#include <gmock/gmock.h>

#include "server/comparison_table.h"
#include "server/error.h"
#include "server/status_grpc.h"
#include "tests/support/fake_clock.h"
#include "tests/support/status_matchers.h"

namespace farspan {
namespace {

class AdmissionGateTest : public ::testing::Test {
 protected:
  AdmissionGate MakeGate(GateLimits limits) {
    return AdmissionGate(
        limits, [this] { return engine_; }, &clock_);
  }

  FakeClock clock_;
  QueuedInEngine engine_;
};

TEST_F(AdmissionGateTest, TicketsAndTheEnginesQueueShareOneLimit) {
  AdmissionGate gate = MakeGate({.max_queued_requests = 2, .max_queued_tokens = 1000});
  engine_.requests = 1;
  absl::StatusOr<AdmissionTicket> ticket = gate.Take(4);
  ASSERT_THAT(ticket, IsOk());
  EXPECT_EQ(ReasonOf(gate.Take(4).status()), "QUEUE_FULL");
  ticket->Release();
  EXPECT_THAT(gate.Take(4), IsOk());
}

TEST_F(AdmissionGateTest, BytesStandForTokensUntilTheyAreCounted) {
  AdmissionGate gate = MakeGate({.max_queued_requests = 9, .max_queued_tokens = 100});
  absl::StatusOr<AdmissionTicket> first = gate.Take(4 * 99);
  ASSERT_THAT(first, IsOk());
  EXPECT_THAT(gate.Take(4), IsOk());
  EXPECT_EQ(ReasonOf(gate.Take(4 * 2).status()), "TOKENS_QUEUED");
  first->Release();
  EXPECT_THAT(gate.Take(4 * 1000), IsOk()) << "a long prompt may wait alone";
}

TEST_F(AdmissionGateTest, RefusalsSayWhenToComeBack) {
  AdmissionGate gate = MakeGate({.max_queued_requests = 1, .max_queued_tokens = 1000});
  const absl::StatusOr<AdmissionTicket> ticket = gate.Take(4);
  for (int i = 0; i < 100; ++i) {
    const auto pushback = RetryPushbackMilliseconds(gate.Take(4).status());
    ASSERT_TRUE(pushback.has_value());
    EXPECT_GE(*pushback, 50);
    EXPECT_LE(*pushback, 30'000);
  }
}

TEST_F(AdmissionGateTest, RetryDelayFollowsTheMeasuredRate) {
  AdmissionGate gate = MakeGate({});
  for (int i = 0; i < 100; ++i) {
    clock_.Advance(std::chrono::seconds(10));
    gate.OnRequestEnded();
  }
  EXPECT_GE(gate.RetryDelay(), std::chrono::milliseconds(7900));
  EXPECT_LE(gate.RetryDelay(), std::chrono::milliseconds(12100));
  for (int i = 0; i < 100; ++i) {
    clock_.Advance(std::chrono::milliseconds(1));
    gate.OnRequestEnded();
  }
  EXPECT_EQ(gate.RetryDelay(), std::chrono::milliseconds(50));
}

TEST_F(AdmissionGateTest, DrainingRefusesEverythingAsUnavailable) {
  AdmissionGate gate = MakeGate({});
  gate.BeginDrain();
  const absl::Status status = gate.Take(4).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(status), "DRAINING");
  EXPECT_TRUE(RetryPushbackMilliseconds(status).has_value());
}

TEST(ComparisonTableTest, DivergenceAndAgreement) {
  const std::vector<TokenId> reference = {1, 2, 3, 4};
  const std::vector<TokenId> shorter = {1, 2};
  const std::vector<TokenId> other = {1, 9, 3, 8};
  EXPECT_EQ(FirstDivergence(reference, reference), std::nullopt);
  EXPECT_EQ(FirstDivergence(shorter, reference), 2);
  EXPECT_EQ(FirstDivergence(reference, shorter), 2);
  EXPECT_EQ(FirstDivergence(other, reference), 1);
  EXPECT_DOUBLE_EQ(TokenAgreement(reference, reference), 1);
  EXPECT_DOUBLE_EQ(TokenAgreement(shorter, reference), 0.5);
  EXPECT_DOUBLE_EQ(TokenAgreement(other, reference), 0.5);
  EXPECT_DOUBLE_EQ(TokenAgreement({}, {}), 1);
}

}  // namespace
}  // namespace farspan
