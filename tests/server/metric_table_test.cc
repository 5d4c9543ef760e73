// SPDX-License-Identifier: Apache-2.0
#include "server/metric_table.h"

#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <string>

namespace farspan {
namespace {

using ::testing::IsEmpty;

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

// The words of a file that are names of metrics, by their prefix.
std::set<std::string> MetricNamesIn(const std::filesystem::path& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  const std::string content = text.str();
  const auto is_part = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == ':'; };
  std::set<std::string> names;
  for (size_t begin = 0; begin < content.size(); ++begin) {
    size_t end = begin;
    while (end < content.size() && is_part(content[end])) ++end;
    const std::string word = content.substr(begin, end - begin);
    if (word.starts_with("farspan_") || word.starts_with("vllm:")) names.insert(word);
    begin = std::max(begin, end);
  }
  return names;
}

bool IsExported(const std::string& name) {
  if (FindMetric(name) != nullptr) return FindMetric(name)->type != MetricType::kHistogram;
  for (const std::string_view suffix : {"_bucket", "_sum", "_count"}) {
    if (!name.ends_with(suffix)) continue;
    const MetricFamily* const family = FindMetric(name.substr(0, name.size() - suffix.size()));
    if (family != nullptr) return family->type == MetricType::kHistogram;
  }
  return false;
}

// A panel or an alert that names a family which does not exist is silent for ever.
TEST(MetricTableTest, DashboardsAndRulesNameOnlyFamiliesOfTheTable) {
  size_t num_names = 0;
  std::vector<std::string> unknown;
  for (const char* folder : {"deploy/grafana/dashboards", "deploy/prometheus"}) {
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      for (const std::string& name : MetricNamesIn(entry.path())) {
        ++num_names;
        if (!IsExported(name)) unknown.push_back(entry.path().string() + ": " + name);
      }
    }
  }
  EXPECT_GT(num_names, 20u);
  EXPECT_THAT(unknown, IsEmpty());
}

}  // namespace
}  // namespace farspan
