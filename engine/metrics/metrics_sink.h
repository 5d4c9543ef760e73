// SPDX-License-Identifier: Apache-2.0
// Typed events of the engine for whoever exports them.
#pragma once

#include <cstdint>
#include <string_view>

#include "engine/output.h"

namespace farspan {

// One engine step.
struct StepEvent {
  SteadyDuration duration{};
  int64_t decode_rows = 0;
  int64_t prefill_tokens = 0;
  int64_t num_sequences = 0;
  int64_t num_policies = 0;  // distinct ones in the batch
};

// What one sequence's rows of a step read, once a decode row or prefill chunk.
struct TrafficEvent {
  std::string_view policy;  // from the registry's closed set
  bool prefill = false;
  AttentionTraffic traffic;
};

struct RequestFinishedEvent {
  std::string_view policy;
  FinishReason reason = FinishReason::kError;
  const RequestStatistics* statistics = nullptr;  // valid during the call
};

// State after a step.
struct EngineGauges {
  int64_t requests_waiting = 0;
  int64_t requests_running = 0;
  int64_t kv_pages_free = 0;
  int64_t kv_pages_used = 0;
};

// Called on the engine thread; must not block.
class MetricsSink {
 public:
  virtual ~MetricsSink() = default;
  virtual void OnStep(const StepEvent& event) = 0;
  virtual void OnTraffic(const TrafficEvent& event) = 0;
  // `gap` is the time since the request's previous token, or since its arrival for the first one.
  virtual void OnToken(std::string_view policy, bool first, SteadyDuration gap, int64_t prompt_tokens) = 0;
  virtual void OnRequestFinished(const RequestFinishedEvent& event) = 0;
  virtual void OnGauges(const EngineGauges& gauges) = 0;
};

// Drops everything.
class NullMetricsSink final : public MetricsSink {
 public:
  void OnStep(const StepEvent&) override {}
  void OnTraffic(const TrafficEvent&) override {}
  void OnToken(std::string_view, bool, SteadyDuration, int64_t) override {}
  void OnRequestFinished(const RequestFinishedEvent&) override {}
  void OnGauges(const EngineGauges&) override {}
};

}  // namespace farspan
