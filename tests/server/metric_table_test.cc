// SPDX-License-Identifier: Apache-2.0
#include "server/metric_table.h"

#include <gmock/gmock.h>

#include <set>
#include <string>

namespace farspan {
namespace {

TEST(MetricTableTest, NamesAreUniqueAndFound) {
  std::set<std::string_view> names;
  for (const MetricFamily& family : MetricTable()) {
    EXPECT_TRUE(names.insert(family.name).second) << family.name;
    EXPECT_EQ(FindMetric(family.name), &family);
  }
  EXPECT_EQ(FindMetric("farspan_nothing"), nullptr);
}

TEST(MetricTableTest, HistogramsHaveAscendingBucketsAndOthersNone) {
  for (const MetricFamily& family : MetricTable()) {
    ASSERT_EQ(family.buckets != nullptr, family.type == MetricType::kHistogram) << family.name;
    if (family.buckets == nullptr) continue;
    const std::span<const double> bounds = family.buckets->bounds;
    EXPECT_TRUE(std::is_sorted(bounds.begin(), bounds.end(), std::less_equal<>())) << family.name;
  }
}

TEST(MetricTableTest, OurNamesFollowTheCustomsOfPrometheus) {
  for (const MetricFamily& family : MetricTable()) {
    EXPECT_TRUE(family.help.ends_with('.')) << family.name;
    if (family.group == MetricGroup::kVllm) {
      EXPECT_TRUE(family.name.starts_with("vllm:")) << family.name;
      continue;
    }
    EXPECT_TRUE(family.name.starts_with("farspan_")) << family.name;
    EXPECT_EQ(family.name.ends_with("_total"), family.type == MetricType::kCounter) << family.name;
    if (family.unit == "seconds" || family.unit == "bytes" || family.unit == "ratio") {
      EXPECT_NE(family.name.find(family.unit), std::string_view::npos) << family.name;
    }
  }
}

}  // namespace
}  // namespace farspan
