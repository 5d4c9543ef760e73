// SPDX-License-Identifier: Apache-2.0
#include "server/metric_series.h"

#include <algorithm>
#include <vector>

#include "engine/base/check.h"

namespace farspan {
namespace {

const MetricFamily& Find(std::string_view name, MetricType type) {
  const MetricFamily* const family = FindMetric(name);
  FARSPAN_CHECK(family != nullptr && family->type == type, "name=", std::string(name));
  return *family;
}

std::vector<double> BoundsOf(const BucketList& list, int64_t max_context_tokens) {
  if (!list.bounds.empty()) return {list.bounds.begin(), list.bounds.end()};
  std::vector<double> bounds;
  const auto limit = static_cast<double>(max_context_tokens);
  for (double decade = 1; decade <= limit; decade *= 10) {
    for (const double step : {1, 2, 5}) {
      if (decade * step <= limit) bounds.push_back(decade * step);
    }
  }
  return bounds;
}

}  // namespace

SeriesMaker::LabelMap SeriesMaker::AllLabels(const MetricFamily& family, Labels labels) const {
  LabelMap all = common_;
  FARSPAN_CHECK(labels.size() == family.labels.size(), "name=", std::string(family.name));
  for (const auto& [name, value] : labels) {
    const auto label = std::find_if(family.labels.begin(), family.labels.end(),
                                    [name = name](const MetricLabel* candidate) { return candidate->name == name; });
    FARSPAN_CHECK(label != family.labels.end(), "name=", std::string(family.name), " label=", std::string(name));
    const std::span<const std::string_view> values = (*label)->values;
    FARSPAN_CHECK(values.empty() || std::find(values.begin(), values.end(), value) != values.end(),
                  "name=", std::string(family.name), " value=", std::string(value));
    all.emplace(name, value);
  }
  return all;
}

prometheus::Counter* SeriesMaker::Counter(std::string_view name, Labels labels) {
  const MetricFamily& family = Find(name, MetricType::kCounter);
  return &prometheus::BuildCounter()
              .Name(std::string(name))
              .Help(std::string(family.help))
              .Register(registry_)
              .Add(AllLabels(family, labels));
}

prometheus::Gauge* SeriesMaker::Gauge(std::string_view name, Labels labels) {
  const MetricFamily& family = Find(name, MetricType::kGauge);
  return &prometheus::BuildGauge()
              .Name(std::string(name))
              .Help(std::string(family.help))
              .Register(registry_)
              .Add(AllLabels(family, labels));
}

prometheus::Histogram* SeriesMaker::Histogram(std::string_view name, Labels labels) {
  const MetricFamily& family = Find(name, MetricType::kHistogram);
  return &prometheus::BuildHistogram()
              .Name(std::string(name))
              .Help(std::string(family.help))
              .Register(registry_)
              .Add(AllLabels(family, labels), BoundsOf(*family.buckets, max_context_tokens_));
}

double MetricSeconds(SteadyDuration duration) { return std::max(0.0, std::chrono::duration<double>(duration).count()); }

void RaiseTo(double total, prometheus::Counter* counter) {
  const double behind = total - counter->Value();
  if (behind > 0) counter->Increment(behind);
}

}  // namespace farspan
