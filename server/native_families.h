// SPDX-License-Identifier: Apache-2.0
// The families `farspan_` that the engine and its device fill: latency, memory and bytes read by policy; batches,
// steps.
#pragma once

#include <array>
#include <functional>
#include <map>
#include <string>
#include <string_view>

#include "engine/metrics/metrics_sink.h"
#include "server/metric_series.h"
#include "server/prometheus_sink.h"

namespace farspan {

// Thread-safe once made, except Read.
class NativeFamilies {
 public:
  NativeFamilies(const MetricsOptions& options, SeriesMaker* maker);

  void OnStep(const StepEvent& event);
  void OnTraffic(const TrafficEvent& event);
  void OnToken(const TokenEvent& event);
  void OnRequestFinished(const RequestFinishedEvent& event);
  void OnPreempted(std::string_view policy);
  void OnPrefixLookup(const PrefixLookupEvent& event);
  // One thread at a time.
  void Read(const MetricsReadings& readings, const EngineGauges& gauges);

 private:
  using BandHistograms = std::array<prometheus::Histogram*, std::size(kContextBands)>;
  using PhaseCounters = std::array<prometheus::Counter*, std::size(kPhases)>;

  struct PolicySeries {
    BandHistograms first_token, inter_token, per_token, end_to_end;
    prometheus::Histogram *queue, *prefill, *decode, *selected_ratio, *peak_bytes;
    std::array<prometheus::Counter*, std::size(kFinishReasons)> finished;
    prometheus::Counter *prompt_computed, *prompt_cached, *generated, *evicted, *preempted, *queried, *hit;
    PhaseCounters read_bytes, dense_read_bytes, side_read_bytes, entries_selected, entries_candidate;
    prometheus::Gauge *running, *waiting, *resident_bytes, *aux_bytes, *logical_tokens, *resident_tokens;
  };

  static PolicySeries MakePolicy(std::string_view policy, const MetricsOptions& options, SeriesMaker* maker);
  static void MakeHistograms(std::string_view policy, SeriesMaker* maker, PolicySeries* series);
  static void MakeCounters(std::string_view policy, SeriesMaker* maker, PolicySeries* series);
  static void SetGauges(const PolicyGauges& gauges, PolicySeries* series);
  void MakeEngineSeries(const MetricsOptions& options, SeriesMaker* maker);
  void ReadMemory(const MetricsReadings& readings, const EngineGauges& gauges);
  PolicySeries& Of(std::string_view policy);

  const int64_t kv_page_bytes_;
  const int64_t kv_pages_total_;
  std::map<std::string, PolicySeries, std::less<>> policies_;
  std::array<prometheus::Histogram*, std::size(kStepPhases)> step_seconds_;
  std::array<prometheus::Histogram*, std::size(kPhases)> batch_tokens_;
  prometheus::Histogram *batch_requests_, *batch_policies_;
  prometheus::Counter* overrun_rows_;
  std::map<std::string_view, prometheus::Gauge*> pages_;   // by state
  std::map<std::string_view, prometheus::Gauge*> memory_;  // by kind
  // Totals kept by the backend and copied when read.
  PhaseCounters attention_seconds_, overhead_seconds_;
};

}  // namespace farspan
