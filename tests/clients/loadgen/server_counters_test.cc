// SPDX-License-Identifier: Apache-2.0
#include "clients/loadgen/server_counters.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace farspan::loadgen {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

MetricsSnapshot Parsed(const std::string& text) { return *MetricsSnapshot::Parse(text); }

constexpr const char* kBefore = R"(
farspan_requests_finished_total{attention_policy="dense",finish_reason="length"} 5
farspan_requests_finished_total{attention_policy="window",finish_reason="length"} 2
farspan_kv_read_bytes_total{attention_policy="dense",phase="decode"} 100
)";
constexpr const char* kAfter = R"(
farspan_requests_finished_total{attention_policy="dense",finish_reason="length"} 8
farspan_requests_finished_total{attention_policy="dense",finish_reason="cancelled"} 1
farspan_requests_finished_total{attention_policy="window",finish_reason="length"} 2
farspan_kv_read_bytes_total{attention_policy="dense",phase="decode"} 150
farspan_kv_read_bytes_total{attention_policy="dense",phase="prefill"} 7
farspan_prompt_tokens_total{attention_policy="dense",source="cached"} 30
farspan_requests_rejected_total{reason="queue_full"} 4
farspan_requests_rejected_total{reason="draining"} 0
farspan_grpc_requests_total{method="Generate",code="OK"} 3
farspan_grpc_requests_total{method="Tokenize",code="OK"} 9
)";

TEST(ServerCountersTest, AreTheGrowthByPolicy) {
  const ServerCounters counters = CountersBetween(Parsed(kBefore), Parsed(kAfter));
  ASSERT_EQ(counters.policies.size(), 1u) << "window did nothing";
  const PolicyCounters& dense = counters.policies.at("dense");
  EXPECT_THAT(dense.finished, ElementsAre(Pair("cancelled", 1), Pair("length", 3)));
  EXPECT_EQ(dense.read_bytes, 57);
  EXPECT_EQ(dense.prompt_tokens_cached, 30);
  EXPECT_EQ(dense.generation_tokens, std::nullopt);
  EXPECT_THAT(counters.rejected, ElementsAre(Pair("queue_full", 4)));
  EXPECT_THAT(counters.calls, ElementsAre(Pair("OK", 3)));
  EXPECT_EQ(counters.preemptions, std::nullopt);
}

TEST(ServerCountersTest, ARestartedServerCountsFromZero) {
  const ServerCounters counters = CountersBetween(Parsed(kAfter), Parsed(kBefore));
  EXPECT_EQ(counters.policies.at("dense").finished.at("length"), 5);
}

TEST(ServerCountersTest, AServerWithoutTheFamiliesHasNoCounters) {
  const ServerCounters counters = CountersBetween({}, Parsed("up 1\n"));
  EXPECT_THAT(counters.policies, IsEmpty());
  EXPECT_EQ(counters.prefix_cache_hits, std::nullopt);
}

}  // namespace
}  // namespace farspan::loadgen
