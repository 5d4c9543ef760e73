// SPDX-License-Identifier: Apache-2.0
#include "clients/loadgen/sample_summary.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace farspan::loadgen {

double Percentile(const std::vector<double>& sorted, double percent) {
  const double rank = percent / 100 * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(rank);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (sorted[above] - sorted[below]) * (rank - static_cast<double>(below));
}

SampleSummary Summarize(std::vector<double> values, const std::vector<double>& percents) {
  SampleSummary summary{.count = values.size()};
  std::sort(values.begin(), values.end());
  for (const double percent : percents) {
    summary.percentiles.emplace_back(percent, values.empty() ? 0 : Percentile(values, percent));
  }
  if (values.empty()) return summary;
  const auto count = static_cast<double>(values.size());
  summary.mean = std::accumulate(values.begin(), values.end(), 0.0) / count;
  double squares = 0;
  for (const double value : values) squares += (value - summary.mean) * (value - summary.mean);
  summary.deviation = std::sqrt(squares / count);
  summary.median = Percentile(values, 50);
  summary.minimum = values.front();
  summary.maximum = values.back();
  return summary;
}

}  // namespace farspan::loadgen
