// SPDX-License-Identifier: Apache-2.0
// Makes series of the families in the metric table, in a Prometheus registry.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include "engine/base/clock.h"
#include "server/metric_table.h"

namespace farspan {

// One thread, while the server starts. The series belong to the registry. A family, label or label value that the
// table does not have ends the process.
class SeriesMaker {
 public:
  using Labels = std::initializer_list<std::pair<std::string_view, std::string_view>>;
  using LabelMap = std::map<std::string, std::string>;

  // `common` are labels of every series.
  SeriesMaker(prometheus::Registry* registry, LabelMap common, int64_t max_context_tokens)
      : registry_(*registry), common_(std::move(common)), max_context_tokens_(max_context_tokens) {}

  prometheus::Counter* Counter(std::string_view name, Labels labels = {});
  prometheus::Gauge* Gauge(std::string_view name, Labels labels = {});
  prometheus::Histogram* Histogram(std::string_view name, Labels labels = {});

 private:
  LabelMap AllLabels(const MetricFamily& family, Labels labels) const;

  prometheus::Registry& registry_;
  const LabelMap common_;
  const int64_t max_context_tokens_;
};

// At least 0: times of different threads may cross by a tick.
double MetricSeconds(SteadyDuration duration);

// Brings `counter`, a copy of a total that is kept elsewhere, up to it.
void RaiseTo(double total, prometheus::Counter* counter);

}  // namespace farspan
