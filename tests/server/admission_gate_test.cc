// SPDX-License-Identifier: Apache-2.0
#include "server/admission_gate.h"

#include <gmock/gmock.h>

#include <algorithm>

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
        limits, [this](const std::string& tenant) { return tenant == "other" ? QueuedInEngine() : engine_; }, &clock_);
  }

  FakeClock clock_;
  QueuedInEngine engine_;
};

TEST_F(AdmissionGateTest, TicketsAndTheEnginesQueueShareOneLimit) {
  AdmissionGate gate = MakeGate({.max_queued_requests = 2, .max_queued_tokens = 1000});
  engine_.requests = 1;
  absl::StatusOr<AdmissionTicket> ticket = gate.Take({.bytes = 4});
  ASSERT_THAT(ticket, IsOk());
  EXPECT_EQ(ReasonOf(gate.Take({.bytes = 4}).status()), "QUEUE_FULL");
  ticket->Release();
  EXPECT_THAT(gate.Take({.bytes = 4}), IsOk());
}

TEST_F(AdmissionGateTest, BytesStandForTokensUntilTheyAreCounted) {
  AdmissionGate gate = MakeGate({.max_queued_requests = 9, .max_queued_tokens = 100});
  absl::StatusOr<AdmissionTicket> first = gate.Take({.bytes = 4 * 99});
  ASSERT_THAT(first, IsOk());
  EXPECT_THAT(gate.Take({.bytes = 4}), IsOk());
  EXPECT_EQ(ReasonOf(gate.Take({.bytes = 4 * 2}).status()), "TOKENS_QUEUED");
  first->Release();
  EXPECT_THAT(gate.Take({.bytes = 4 * 1000}), IsOk()) << "a long prompt may wait alone";
}

TEST_F(AdmissionGateTest, EverySampleTakesAPlace) {
  AdmissionGate gate = MakeGate({.max_queued_requests = 4, .max_queued_requests_per_tenant = 4});
  absl::StatusOr<AdmissionTicket> three = gate.Take({.slots = 3});
  ASSERT_THAT(three, IsOk());
  EXPECT_EQ(ReasonOf(gate.Take({.slots = 2}).status()), "QUEUE_FULL");
  EXPECT_THAT(gate.Take({.slots = 1}), IsOk());
  three->LeaveQueue();
  EXPECT_THAT(gate.Take({.slots = 4}), IsOk());
  three->Release();
  EXPECT_THAT(gate.Take({.slots = 8}), IsOk()) << "alone, more than the limit may wait";
}

TEST_F(AdmissionGateTest, ATenantHasItsShareOfTheQueue) {
  AdmissionGate gate = MakeGate({.max_queued_requests = 9, .max_queued_requests_per_tenant = 3});
  engine_ = {.requests = 2, .requests_of_tenant = 2};
  absl::StatusOr<AdmissionTicket> last = gate.Take({.tenant = "a"});
  ASSERT_THAT(last, IsOk());
  const absl::Status refused = gate.Take({.tenant = "a"}).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(refused), "TENANT_QUOTA");
  EXPECT_TRUE(RetryPushbackMilliseconds(refused).has_value());
  EXPECT_THAT(gate.Take({.tenant = "other"}), IsOk());
  last->LeaveQueue();
  EXPECT_THAT(gate.Take({.tenant = "a"}), IsOk());
}

TEST_F(AdmissionGateTest, RefusalsSayWhenToComeBack) {
  AdmissionGate gate = MakeGate({.max_queued_requests = 1, .max_queued_tokens = 1000});
  const absl::StatusOr<AdmissionTicket> ticket = gate.Take({.bytes = 4});
  for (int i = 0; i < 100; ++i) {
    const auto pushback = RetryPushbackMilliseconds(gate.Take({.bytes = 4}).status());
    ASSERT_TRUE(pushback.has_value());
    EXPECT_GE(*pushback, 50);
    EXPECT_LE(*pushback, 30'000);
  }
}

TEST_F(AdmissionGateTest, RetryDelayFollowsTheMeasuredRate) {
  AdmissionGate gate = MakeGate({});
  for (int i = 0; i < 100; ++i) {
    clock_.Advance(std::chrono::seconds(10));
    gate.OnRequestEnded(1);
  }
  EXPECT_GE(gate.RetryDelay(), std::chrono::milliseconds(7900));
  EXPECT_LE(gate.RetryDelay(), std::chrono::milliseconds(24100)) << "the second turn";
  clock_.Advance(std::chrono::hours(1));
  for (int i = 0; i < 100; ++i) {
    clock_.Advance(std::chrono::seconds(8));
    gate.OnRequestEnded(8);
  }
  EXPECT_GE(gate.RetryDelay(), std::chrono::milliseconds(790)) << "eight places at a time";
  EXPECT_LE(gate.RetryDelay(), std::chrono::milliseconds(2500));
}

TEST_F(AdmissionGateTest, RetryDelaysAreSpreadByAFifthWithinTheirBounds) {
  for (const auto gap : {std::chrono::milliseconds(1), std::chrono::milliseconds(100'000)}) {
    AdmissionGate gate = MakeGate({});
    SteadyDuration least = std::chrono::hours(1);
    SteadyDuration most{};
    for (int i = 0; i < 1000; ++i) {
      clock_.Advance(gap);
      gate.OnRequestEnded(1);
      if (i < 100) continue;
      const SteadyDuration delay = gate.RetryDelay();
      least = std::min(least, delay);
      most = std::max(most, delay);
    }
    EXPECT_GE(least, std::chrono::milliseconds(50));
    EXPECT_LE(most, std::chrono::seconds(30));
    EXPECT_GT(most * 10, least * 13) << "not all at one time";
  }
}

TEST_F(AdmissionGateTest, RefusedCallersGetOneTurnAfterTheOther) {
  AdmissionGate gate = MakeGate({});
  for (int i = 0; i < 100; ++i) {
    clock_.Advance(std::chrono::milliseconds(100));
    gate.OnRequestEnded(1);
  }
  SteadyDuration last{};
  for (int i = 0; i < 100; ++i) last = gate.RetryDelay();
  EXPECT_GE(last, std::chrono::milliseconds(7900)) << "the hundredth place from now";
  clock_.Advance(std::chrono::seconds(20));
  EXPECT_LE(gate.RetryDelay(), std::chrono::milliseconds(125)) << "turns pass with time";
}

TEST_F(AdmissionGateTest, AnIdleServerHasNotBecomeASlowOne) {
  AdmissionGate gate = MakeGate({});
  for (int i = 0; i < 50; ++i) {
    clock_.Advance(std::chrono::hours(1));
    const absl::StatusOr<AdmissionTicket> ticket = gate.Take({});
    clock_.Advance(std::chrono::milliseconds(100));
    gate.OnRequestEnded(1);
  }
  EXPECT_LE(gate.RetryDelay(), std::chrono::milliseconds(125));
}

TEST_F(AdmissionGateTest, DrainingRefusesEverythingAsUnavailable) {
  AdmissionGate gate = MakeGate({});
  gate.BeginDrain();
  const absl::Status status = gate.Take({.bytes = 4}).status();
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
