// SPDX-License-Identifier: Apache-2.0
// Exports the engine's and the server's events in Prometheus' text format: families `farspan_` by attention policy, and
// vLLM's names, summed over policies, for dashboards that know those. Every series exists from the start; none is ever
// made from what a client sent.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <vector>

#include <prometheus/registry.h>

#include "engine/attention/registry.h"
#include "engine/backend/backend.h"
#include "engine/base/model_shape.h"
#include "engine/base/mutex.h"
#include "engine/metrics/metrics_sink.h"
#include "server/server_metrics.h"

namespace farspan {

// What is fixed when serving starts.
struct MetricsOptions {
  std::string model_name;
  std::vector<PolicyTraits> policies;  // the registry's: all that a label may be
  std::string device = "cpu";
  std::string architecture;
  std::string weights_id;
  ModelShape shape;
  int64_t kv_pages_total = 0;
  bool prefix_caching = false;
  bool vllm_families = true;
};

// What is read when the metrics are, rather than counted.
struct MetricsReadings {
  int64_t requests_running = 0;
  int64_t requests_waiting = 0;
  int64_t calls_active = 0;
  int64_t connections_refused = 0;
  int64_t accept_exhausted = 0;
  int64_t log_lines_dropped = 0;
  std::array<int64_t, kNumMemoryKinds> memory_bytes{};  // by MemoryKind
  DeviceMemory device_memory;                           // all of it, whoever holds it
  std::array<SteadyDuration, kNumTimedOps> op_time{};   // by TimedOp
};

class EdgeFamilies;
class NativeFamilies;
class VllmFamilies;

// Thread-safe. Observations take a lock for some nanoseconds at most.
class PrometheusSink final : public MetricsSink, public ServerMetrics {
 public:
  PrometheusSink();
  ~PrometheusSink() override;

  // Makes every series. Before this, events are dropped; once.
  void Open(const MetricsOptions& options);

  // The page at /metrics.
  std::string Text(const MetricsReadings& readings) const;

  void OnStep(const StepEvent& event) override;
  void OnTraffic(const TrafficEvent& event) override;
  void OnToken(const TokenEvent& event) override;
  void OnRequestFinished(const RequestFinishedEvent& event) override;
  void OnPreempted(std::string_view policy) override;
  void OnPrefixLookup(const PrefixLookupEvent& event) override;
  void OnGauges(const EngineGauges& gauges) override;

  void OnRejected(absl::string_view reason) override;
  void OnCallStarted(absl::string_view method) override;
  void OnCallEnded(absl::string_view method, absl::StatusCode code, SteadyDuration duration) override;
  void OnMessage(absl::string_view method, MessageDirection direction, int64_t bytes) override;
  void OnCompared(const ComparedEvent& event) override;
  void OnDraining() override;

 private:
  prometheus::Registry registry_;
  std::unique_ptr<NativeFamilies> native_;
  std::unique_ptr<EdgeFamilies> edge_;
  std::unique_ptr<VllmFamilies> vllm_;  // null when off
  // The engine's state after its last step. Gauges are set from it when the page is made, so that they fit together.
  mutable Mutex mutex_;
  EngineGauges gauges_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace farspan
