// SPDX-License-Identifier: Apache-2.0
// One scrape of a server's metrics, read from the Prometheus text format.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace farspan {

using MetricLabels = std::map<std::string, std::string, std::less<>>;

// Immutable. Missing families and labels are answers, not errors: servers of other versions have other families.
class MetricsSnapshot {
 public:
  MetricsSnapshot() = default;

  // INVALID_ARGUMENT "line N: ..." for text that is not of the format; RESOURCE_EXHAUSTED over 200,000 samples, 64
  // labels of a sample or 64 KiB of a line. Comments, types and timestamps are skipped. Trusts nothing in `text`.
  static absl::StatusOr<MetricsSnapshot> Parse(absl::string_view text);

  // Sum over the samples called `name` that have all of `labels`; none where there is no such sample.
  std::optional<double> Sum(absl::string_view name, const MetricLabels& labels = {}) const;

  // The same by the values of label `by`; samples without it are left out.
  std::map<std::string, double> SumBy(absl::string_view name, absl::string_view by,
                                      const MetricLabels& labels = {}) const;

  size_t num_samples() const { return num_samples_; }

 private:
  struct Sample {
    MetricLabels labels;
    double value = 0;
  };

  std::map<std::string, std::vector<Sample>, std::less<>> families_;
  size_t num_samples_ = 0;
};

}  // namespace farspan
