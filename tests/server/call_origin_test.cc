// SPDX-License-Identifier: Apache-2.0
#include "server/call_origin.h"

#include <gmock/gmock.h>

#include "server/error.h"

namespace farspan {
namespace {

using ::testing::HasSubstr;
using Metadata = std::multimap<grpc::string_ref, grpc::string_ref>;

constexpr char kTraceId[] = "4bf92f3577b34da6a3ce929d0e0e4736";
constexpr char kParentId[] = "00f067aa0ba902b7";

std::string Traceparent(const std::string& version = "00", const std::string& rest = "") {
  return version + "-" + kTraceId + "-" + kParentId + "-01" + rest;
}

TEST(TraceContextTest, AChildKeepsTheTraceAndGetsASpanOfItsOwn) {
  const std::optional<TraceContext> trace = ContinueTrace(Traceparent());
  ASSERT_TRUE(trace.has_value());
  EXPECT_EQ(trace->trace_id, kTraceId);
  EXPECT_EQ(trace->parent_span_id, kParentId);
  EXPECT_EQ(trace->flags, 1);
  EXPECT_THAT(trace->span_id, ::testing::MatchesRegex("[0-9a-f]{16}"));
  EXPECT_NE(trace->span_id, kParentId);
  EXPECT_NE(trace->span_id, ContinueTrace(Traceparent())->span_id);
}

TEST(TraceContextTest, LaterVersionsMayAppendAndThisOneMayNot) {
  EXPECT_TRUE(ContinueTrace(Traceparent("cc", "")).has_value());
  EXPECT_TRUE(ContinueTrace(Traceparent("cc", "-what-the-future-holds")).has_value());
  EXPECT_TRUE(ContinueTrace(Traceparent("cc", "-")).has_value());
  EXPECT_FALSE(ContinueTrace(Traceparent("cc", ".what")).has_value());
  EXPECT_FALSE(ContinueTrace(Traceparent("00", "-more")).has_value());
}

TEST(TraceContextTest, MalformedOnesAreNone) {
  const std::string trace_id = kTraceId;
  const std::string parent_id = kParentId;
  const std::vector<std::string> wrong = {"",
                                          "00",
                                          Traceparent("ff"),
                                          Traceparent("0g"),
                                          Traceparent("0"),
                                          Traceparent("000"),
                                          "00-" + std::string(32, '0') + "-" + parent_id + "-01",
                                          "00-" + trace_id + "-" + std::string(16, '0') + "-01",
                                          "00-4BF92F3577B34DA6A3CE929D0E0E4736-" + parent_id + "-01",
                                          "00-" + trace_id + "-" + parent_id + "-0",
                                          "00-" + trace_id + "-" + parent_id + "-0G",
                                          "00-" + trace_id + "_" + parent_id + "-01",
                                          "00-" + trace_id.substr(1) + "-" + parent_id + "-011",
                                          " " + Traceparent(),
                                          Traceparent() + " ",
                                          Traceparent() + "\n",
                                          std::string(55, '-'),
                                          std::string(10'000, '0')};
  for (const std::string& text : wrong) EXPECT_FALSE(ContinueTrace(text).has_value()) << text;
}

TEST(CallOriginTest, WithoutAUsableTraceparentANewTraceBegins) {
  const std::string good = Traceparent();
  EXPECT_EQ(ReadOrigin({{"traceparent", good}}, false).trace.trace_id, kTraceId);
  for (const Metadata& metadata :
       {Metadata{}, Metadata{{"traceparent", "00-junk"}}, Metadata{{"traceparent", good}, {"traceparent", good}}}) {
    const TraceContext trace = ReadOrigin(metadata, false).trace;
    EXPECT_THAT(trace.trace_id, ::testing::MatchesRegex("[0-9a-f]{32}"));
    EXPECT_NE(trace.trace_id, kTraceId);
    EXPECT_EQ(trace.parent_span_id, "");
  }
}

TEST(CallOriginTest, TheTenantIsReadOnlyWhereTheHeaderIsTrusted) {
  const Metadata metadata = {{"x-farspan-tenant", "acme"}};
  EXPECT_EQ(ReadOrigin(metadata, true).tenant, "acme");
  EXPECT_EQ(ReadOrigin(metadata, false).tenant, "");
  EXPECT_EQ(ReadOrigin({}, true).tenant, "");
  EXPECT_TRUE(ReadOrigin({}, true).refusal.ok());
}

TEST(CallOriginTest, TenantsAreOneToSixtyFourPrintableBytes) {
  const std::string longest(64, '~');
  EXPECT_EQ(ReadOrigin({{"x-farspan-tenant", longest}}, true).tenant, longest);
  const std::string too_long(65, 'a');
  const std::vector<std::pair<Metadata, std::string>> wrong = {
      {{{"x-farspan-tenant", too_long}}, "got 65 bytes"},
      {{{"x-farspan-tenant", ""}}, "got 0 bytes"},
      {{{"x-farspan-tenant", "a\x01"}}, "got other bytes"},
      {{{"x-farspan-tenant", "\xC3\xA9"}}, "got other bytes"},
      {{{"x-farspan-tenant", "a"}, {"x-farspan-tenant", "b"}}, "must be given once, got 2 times"}};
  for (const auto& [metadata, words] : wrong) {
    const CallOrigin origin = ReadOrigin(metadata, true);
    EXPECT_EQ(origin.refusal.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(ReasonOf(origin.refusal), "INVALID_FIELD");
    EXPECT_THAT(std::string(origin.refusal.message()), HasSubstr("x-farspan-tenant: must"));
    EXPECT_THAT(std::string(origin.refusal.message()), HasSubstr(words));
    EXPECT_EQ(origin.tenant, "");
    EXPECT_TRUE(ReadOrigin(metadata, false).refusal.ok()) << "an untrusted header is not even looked at";
  }
}

TEST(CallOriginTest, TheLogsNameOfATenantIsItsHash) {
  // The beginning of SHA-256("abc").
  EXPECT_EQ(TenantHash("abc"), "ba7816bf8f01cfea");
}

}  // namespace
}  // namespace farspan
