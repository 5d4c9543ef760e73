// SPDX-License-Identifier: Apache-2.0
#include "clients/scrape/metrics_snapshot.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "absl/strings/str_cat.h"

namespace farspan {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

MetricsSnapshot Parsed(const std::string& text) {
  absl::StatusOr<MetricsSnapshot> snapshot = MetricsSnapshot::Parse(text);
  EXPECT_TRUE(snapshot.ok()) << snapshot.status();
  return snapshot.ok() ? *std::move(snapshot) : MetricsSnapshot();
}

absl::Status Refused(const std::string& text) { return MetricsSnapshot::Parse(text).status(); }

TEST(MetricsSnapshotTest, ReadsSamplesWithAndWithoutLabels) {
  const MetricsSnapshot snapshot = Parsed(
      "# HELP a What it is.\n# TYPE a counter\n"
      "a{policy=\"dense\",phase=\"decode\"} 3\n"
      "a{policy=\"dense\",phase=\"prefill\"} 4.5\n"
      "a{policy=\"window\",phase=\"decode\"} 1e3 1700000000000\r\n"
      "\n  b   7  \n"
      "vllm:c{} 2\n");
  EXPECT_EQ(snapshot.num_samples(), 5u);
  EXPECT_EQ(snapshot.Sum("a"), 1007.5);
  EXPECT_EQ(snapshot.Sum("a", {{"policy", "dense"}}), 7.5);
  EXPECT_EQ(snapshot.Sum("a", {{"policy", "dense"}, {"phase", "decode"}}), 3);
  EXPECT_EQ(snapshot.Sum("b"), 7);
  EXPECT_EQ(snapshot.Sum("vllm:c"), 2);
  EXPECT_THAT(snapshot.SumBy("a", "policy"), ElementsAre(Pair("dense", 7.5), Pair("window", 1000)));
  EXPECT_THAT(snapshot.SumBy("a", "policy", {{"phase", "prefill"}}), ElementsAre(Pair("dense", 4.5)));
}

TEST(MetricsSnapshotTest, WhatIsMissingIsNoValue) {
  const MetricsSnapshot snapshot = Parsed("a{x=\"1\"} 3\n");
  EXPECT_EQ(snapshot.Sum("b"), std::nullopt);
  EXPECT_EQ(snapshot.Sum("a", {{"x", "2"}}), std::nullopt);
  EXPECT_THAT(snapshot.SumBy("a", "y"), IsEmpty());
  EXPECT_EQ(Parsed("").num_samples(), 0u);
}

TEST(MetricsSnapshotTest, ReadsSpecialValuesAndEscapes) {
  const MetricsSnapshot snapshot = Parsed(
      "a{x=\"q\\\"b\\\\n\\nl,}= #\"} +Inf\n"
      "b NaN\n"
      "c -Inf\n"
      "d{ x = \"1\" , y=\"2\", } 5");
  EXPECT_THAT(snapshot.SumBy("a", "x"), ElementsAre(Pair("q\"b\\n\nl,}= #", INFINITY)));
  EXPECT_TRUE(std::isnan(*snapshot.Sum("b")));
  EXPECT_EQ(snapshot.Sum("c"), -INFINITY);
  EXPECT_EQ(snapshot.Sum("d", {{"y", "2"}}), 5);
}

TEST(MetricsSnapshotTest, RefusesWhatIsNoSampleAndNamesTheLine) {
  for (const char* line : {"a", "a ", "1a 3", "a{ 3", "a{x} 3", "a{x=} 3", "a{x=1} 3", "a{x=\"1} 3", "a{x=\"\\t\"} 3",
                           "a{x=\"\\", "a{x=\"1\"y=\"2\"} 3", "a{x=\"1\"", "a{x=\"1\",x=\"2\"} 3", "a three", "a 3 x",
                           "a 3 4 5", "{x=\"1\"} 3", "<html>", "a{,} 3"}) {
    const absl::Status status = Refused(absl::StrCat("ok 1\n", line, "\n"));
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << line;
    EXPECT_EQ(status.message().substr(0, 8), "line 2: ") << line;
  }
  EXPECT_FALSE(Refused(std::string("a\0b 3\n", 6)).ok());
}

TEST(MetricsSnapshotTest, IsBounded) {
  EXPECT_EQ(Refused(absl::StrCat("a{x=\"", std::string(70'000, 'y'), "\"} 1\n")).code(),
            absl::StatusCode::kResourceExhausted);
  std::string labels = "a{";
  for (int i = 0; i < 65; ++i) absl::StrAppend(&labels, "l", i, "=\"\",");
  EXPECT_EQ(Refused(absl::StrCat(labels, "} 1\n")).code(), absl::StatusCode::kResourceExhausted);
  std::string many;
  for (int i = 0; i <= 200'000; ++i) many += "a 1\n";
  EXPECT_EQ(Refused(many).code(), absl::StatusCode::kResourceExhausted);
}

// Every mutation of a valid text is read or refused.
TEST(MetricsSnapshotTest, SurvivesMutations) {
  const std::string valid = "# TYPE a counter\na{x=\"1\\\"\",y=\"\"} 3.5 17\nb_bucket{le=\"+Inf\"} 2\n";
  std::mt19937 bits(5);
  int refused = 0;
  for (int i = 0; i < 20'000; ++i) {
    std::string text = valid;
    for (unsigned k = 0; k <= bits() % 3; ++k) text[bits() % text.size()] = static_cast<char>(bits() % 256);
    text.resize(text.size() - bits() % 10);
    refused += Refused(text).ok() ? 0 : 1;
  }
  EXPECT_GT(refused, 1000);
}

}  // namespace
}  // namespace farspan
