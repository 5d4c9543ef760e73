// SPDX-License-Identifier: Apache-2.0
// Mean, spread and percentiles of measured values.
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

namespace farspan::loadgen {

struct SampleSummary {
  size_t count = 0;
  double mean = 0;  // 0 where there is no value, as are the others
  double median = 0;
  double deviation = 0;  // of the population
  double minimum = 0;
  double maximum = 0;
  std::vector<std::pair<double, double>> percentiles;  // percent, value; in the order asked for
};

// `percents` lie in [0, 100]. Cost: one sort.
SampleSummary Summarize(std::vector<double> values, const std::vector<double>& percents);

// Linear interpolation between the two nearest ranks, as numpy.percentile; `sorted` is ascending and not empty.
double Percentile(const std::vector<double>& sorted, double percent);

}  // namespace farspan::loadgen
