// SPDX-License-Identifier: Apache-2.0
// Typed events of the engine for whoever exports them.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

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

// What the prefix cache had of one prompt, when the request begins. Requests that bypass the cache report none.
struct PrefixLookupEvent {
  std::string_view policy;
  int64_t queried_tokens = 0;
  int64_t hit_tokens = 0;
};

// One policy's share of the engine, over live requests.
struct PolicyGauges {
  std::string_view policy;
  int64_t requests_waiting = 0;
  int64_t requests_running = 0;
  int64_t resident_bytes = 0;  // KV pages held; a shared page counts once in each request that holds it
  int64_t side_data_bytes = 0;
  int64_t logical_tokens = 0;
  int64_t resident_tokens = 0;
};

// State after a step. free + used + cached pages are all pages.
struct EngineGauges {
  int64_t requests_waiting = 0;
  int64_t requests_running = 0;
  int64_t kv_pages_free = 0;
  int64_t kv_pages_used = 0;           // held by live requests, shared ones once
  int64_t kv_pages_cached = 0;         // held by the prefix cache alone
  std::vector<PolicyGauges> policies;  // those with live requests
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
  // A running request was stopped to make room; it will be computed again.
  virtual void OnPreempted(std::string_view policy) = 0;
  virtual void OnPrefixLookup(const PrefixLookupEvent& event) = 0;
  virtual void OnGauges(const EngineGauges& gauges) = 0;
};

// Drops everything.
class NullMetricsSink final : public MetricsSink {
 public:
  void OnStep(const StepEvent&) override {}
  void OnTraffic(const TrafficEvent&) override {}
  void OnToken(std::string_view, bool, SteadyDuration, int64_t) override {}
  void OnRequestFinished(const RequestFinishedEvent&) override {}
  void OnPreempted(std::string_view) override {}
  void OnPrefixLookup(const PrefixLookupEvent&) override {}
  void OnGauges(const EngineGauges&) override {}
};

}  // namespace farspan
