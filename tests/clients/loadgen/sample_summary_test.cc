// SPDX-License-Identifier: Apache-2.0
#include "clients/loadgen/sample_summary.h"

#include <gtest/gtest.h>

namespace farspan::loadgen {
namespace {

TEST(SampleSummaryTest, PercentilesInterpolateBetweenRanks) {
  const std::vector<double> values{10, 20, 30, 40};
  EXPECT_DOUBLE_EQ(Percentile(values, 0), 10);
  EXPECT_DOUBLE_EQ(Percentile(values, 50), 25);
  EXPECT_DOUBLE_EQ(Percentile(values, 90), 37);
  EXPECT_DOUBLE_EQ(Percentile(values, 100), 40);
  EXPECT_DOUBLE_EQ(Percentile({7}, 99), 7);
}

TEST(SampleSummaryTest, DescribesUnsortedValues) {
  const SampleSummary summary = Summarize({4, 1, 3, 2}, {50, 99.9});
  EXPECT_EQ(summary.count, 4u);
  EXPECT_DOUBLE_EQ(summary.mean, 2.5);
  EXPECT_DOUBLE_EQ(summary.median, 2.5);
  EXPECT_DOUBLE_EQ(summary.deviation * summary.deviation, 1.25);
  EXPECT_DOUBLE_EQ(summary.minimum, 1);
  EXPECT_DOUBLE_EQ(summary.maximum, 4);
  ASSERT_EQ(summary.percentiles.size(), 2u);
  EXPECT_EQ(summary.percentiles[0], (std::pair{50.0, 2.5}));
  EXPECT_EQ(summary.percentiles[1].first, 99.9);
}

TEST(SampleSummaryTest, NothingMeasuredIsZero) {
  const SampleSummary summary = Summarize({}, {99});
  EXPECT_EQ(summary.count, 0u);
  EXPECT_EQ(summary.mean, 0);
  EXPECT_EQ(summary.percentiles, (std::vector<std::pair<double, double>>{{99, 0}}));
}

}  // namespace
}  // namespace farspan::loadgen
