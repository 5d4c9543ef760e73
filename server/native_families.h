// SPDX-License-Identifier: Apache-2.0
// The families `farspan_`: labelled by model and attention policy, latencies by length of context too, since comparing
// policies over different prompts compares prompts.
#pragma once

#include <array>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "engine/metrics/metrics_sink.h"
#include "server/metric_series.h"
#include "server/prometheus_sink.h"

namespace farspan {

// Thread-safe once made.
class NativeFamilies {
 public:
  NativeFamilies(const MetricsOptions& options, prometheus::Registry* registry);

  void OnStep(const StepEvent& event);
  void OnTraffic(const TrafficEvent& event);
  void OnToken(absl::string_view policy, bool first, SteadyDuration gap, int64_t prompt_tokens);
  void OnRequestFinished(const RequestFinishedEvent& event);
  void OnRejected(absl::string_view reason);
  void OnCallEnded(absl::string_view method, absl::StatusCode code, SteadyDuration duration);
  void OnDraining();
  void Read(const MetricsReadings& readings);

 private:
  static constexpr size_t kNumBands = 5;
  static constexpr size_t kNumReasons = 6;
  static constexpr size_t kNumPhases = 2;
  using BandHistograms = std::array<prometheus::Histogram*, kNumBands>;
  using PhaseCounters = std::array<prometheus::Counter*, kNumPhases>;

  struct PolicySeries {
    BandHistograms first_token, inter_token, per_token, end_to_end;
    prometheus::Histogram *queue, *prefill, *decode, *selected_ratio, *peak_bytes;
    std::array<prometheus::Counter*, kNumReasons> finished;
    prometheus::Counter *prompt_computed, *prompt_cached, *generated, *evicted;
    PhaseCounters read_bytes, dense_read_bytes, entries_selected, entries_candidate;
  };
  struct MethodSeries {
    std::map<absl::StatusCode, prometheus::Counter*> calls;
    prometheus::Histogram* seconds;
  };

  static PolicySeries MakePolicy(const std::string& policy, SeriesMaker* maker);
  static MethodSeries MakeMethod(const std::string& method, SeriesMaker* maker);
  void MakeServerSeries(const MetricsOptions& options, SeriesMaker* maker);
  PolicySeries& Of(absl::string_view policy);

  std::map<std::string, PolicySeries, std::less<>> policies_;
  std::map<std::string, MethodSeries, std::less<>> methods_;
  std::map<std::string, prometheus::Counter*, std::less<>> rejected_;
  std::map<std::string, prometheus::Histogram*, std::less<>> step_seconds_;
  prometheus::Histogram *prefill_tokens_, *decode_tokens_, *batch_policies_, *batch_requests_;
  prometheus::Gauge *pages_free_, *pages_used_, *kv_free_bytes_, *kv_used_bytes_, *weight_bytes_, *running_, *waiting_;
  prometheus::Gauge *draining_, *calls_active_;
  // Totals kept elsewhere and copied when read; they only grow.
  prometheus::Counter *connections_refused_, *accept_exhausted_, *log_lines_dropped_;
};

}  // namespace farspan
