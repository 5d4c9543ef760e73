// SPDX-License-Identifier: Apache-2.0
// The families that dashboards made for vLLM plot, under its names, types, buckets and labels. Only those that this
// server can fill truthfully.
#pragma once

#include "engine/metrics/metrics_sink.h"
#include "server/metric_series.h"
#include "server/prometheus_sink.h"

namespace farspan {

// Thread-safe once made, except Read.
class VllmFamilies {
 public:
  VllmFamilies(const MetricsOptions& options, SeriesMaker* maker);

  void OnStep(const StepEvent& event);
  void OnToken(const TokenEvent& event);
  void OnRequestFinished(const RequestFinishedEvent& event);
  void OnPreempted();
  void OnPrefixLookup(const PrefixLookupEvent& event);
  // One thread at a time.
  void Read(const MetricsReadings& readings, const EngineGauges& gauges);

 private:
  void CountEnd(FinishReason reason);
  void CountPrompt(const RequestStatistics& statistics);

  const int64_t kv_pages_total_;
  prometheus::Gauge *running_, *waiting_, *waiting_for_capacity_, *usage_;
  prometheus::Counter *prompt_tokens_, *computed_tokens_, *hit_tokens_, *cached_tokens_, *generation_tokens_;
  prometheus::Counter *preemptions_, *cache_queries_, *cache_hits_;
  prometheus::Counter *stop_, *length_, *abort_, *error_;
  prometheus::Histogram *first_token_, *inter_token_, *time_per_output_token_, *per_token_;
  prometheus::Histogram *end_to_end_, *queue_, *inference_, *prefill_, *decode_;
  prometheus::Histogram *request_prompt_tokens_, *request_generation_tokens_, *request_longest_, *iteration_tokens_;
  prometheus::Histogram *params_n_, *params_max_tokens_, *request_computed_tokens_, *request_preemptions_;
};

}  // namespace farspan
