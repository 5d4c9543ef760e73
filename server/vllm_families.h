// SPDX-License-Identifier: Apache-2.0
// The families that dashboards made for vLLM plot, under its names, types, buckets and labels. Only those that this
// server can fill truthfully.
#pragma once

#include <array>

#include "engine/metrics/metrics_sink.h"
#include "server/metric_series.h"
#include "server/prometheus_sink.h"

namespace farspan {

// Thread-safe once made.
class VllmFamilies {
 public:
  VllmFamilies(const MetricsOptions& options, prometheus::Registry* registry);

  void OnStep(const StepEvent& event);
  void OnToken(bool first, SteadyDuration gap);
  void OnRequestFinished(const RequestFinishedEvent& event);
  void Read(const MetricsReadings& readings);

 private:
  prometheus::Gauge *running_, *waiting_, *usage_;
  prometheus::Counter *prompt_tokens_, *generation_tokens_, *preemptions_;
  prometheus::Counter *stop_, *length_, *abort_, *error_;
  prometheus::Histogram *first_token_, *inter_token_, *time_per_output_token_, *per_token_;
  prometheus::Histogram *end_to_end_, *queue_, *inference_, *prefill_, *decode_;
  prometheus::Histogram *request_prompt_tokens_, *request_generation_tokens_, *iteration_tokens_;
};

}  // namespace farspan
