// SPDX-License-Identifier: Apache-2.0
// The families `farspan_` that the server itself fills: calls, messages, refusals, comparisons, and what it is.
#pragma once

#include <array>
#include <functional>
#include <map>
#include <string>

#include "absl/strings/string_view.h"
#include "server/metric_series.h"
#include "server/prometheus_sink.h"

namespace farspan {

// Thread-safe once made, except Read.
class EdgeFamilies {
 public:
  EdgeFamilies(const MetricsOptions& options, SeriesMaker* maker);

  void OnRejected(absl::string_view reason);
  void OnCallEnded(absl::string_view method, absl::StatusCode code, SteadyDuration duration);
  void OnMessage(absl::string_view method, MessageDirection direction, int64_t bytes);
  void OnCompared(const ComparedEvent& event);
  void OnDraining();
  // One thread at a time.
  void Read(const MetricsReadings& readings);

 private:
  struct MethodSeries {
    std::map<absl::StatusCode, prometheus::Counter*> calls;
    prometheus::Histogram* seconds;
    std::array<prometheus::Counter*, std::size(kDirections)> bytes;
  };
  struct ComparisonSeries {
    prometheus::Counter *runs, *equal_runs;
    prometheus::Histogram *first_divergence, *token_agreement;
  };
  using ComparisonsByReference = std::array<ComparisonSeries, std::size(kReferencePolicies)>;

  static MethodSeries MakeMethod(std::string_view method, SeriesMaker* maker);
  static ComparisonSeries MakeComparison(std::string_view policy, std::string_view reference, SeriesMaker* maker);
  static void MakeInfo(const MetricsOptions& options, SeriesMaker* maker);
  MethodSeries& Of(absl::string_view method);

  std::map<std::string, MethodSeries, std::less<>> methods_;
  std::map<std::string, ComparisonsByReference, std::less<>> comparisons_;  // by policy
  std::map<std::string, prometheus::Counter*, std::less<>> rejected_;       // by reason in small letters
  prometheus::Gauge *draining_, *calls_active_;
  // Totals kept elsewhere and copied when read.
  prometheus::Counter *connections_refused_, *accept_exhausted_, *log_lines_dropped_;
};

}  // namespace farspan
