// SPDX-License-Identifier: Apache-2.0
// Engine: owns the model, the KV cache, the scheduler and the one thread that runs them. Requests go in, events come
// out; text, gRPC and Prometheus are unknown here.
#pragma once

#include <cstdint>
#include <memory>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/backend/backend.h"
#include "engine/base/clock.h"
#include "engine/engine_accounting.h"
#include "engine/kv/kv_cache.h"
#include "engine/metrics/metrics_sink.h"
#include "engine/model/model.h"
#include "engine/output.h"
#include "engine/request.h"
#include "engine/request_handle.h"

namespace farspan {

struct EngineConfig {
  int64_t max_num_seqs = 64;              // requests in one batch; at most max_num_batched_tokens
  int64_t max_num_batched_tokens = 512;   // rows of one step, decode rows and prefill chunks together
  int64_t max_num_queued_requests = 256;  // accepted and not yet running
  int64_t max_num_queued_tokens = 65536;  // prompt tokens of those
  int64_t max_num_queued_requests_per_tenant = 256;
  bool prefix_caching = true;
  // Longest step that decodes should wait for: a step with decode rows takes fewer prompt tokens where it would last
  // longer. Zero has no bound.
  SteadyDuration max_inter_token_latency{};
  // Waiting this long counts as one step of priority.
  SteadyDuration priority_ageing = std::chrono::seconds(10);
  int64_t max_steps_in_flight = 2;  // 1 waits for each step; more than the model allows are not begun
  bool poison_freed_pages = false;  // tests: a freed page becomes NaN
};

// What an engine is made of; all of one device. The sink and the clock are the caller's and outlive the engine.
struct EngineParts {
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Model> model;
  std::unique_ptr<KvCache> kv_cache;
  MetricsSink* metrics = nullptr;
  const Clock* clock = Clock::Real();
};

// A snapshot; the fields belong together.
struct EngineStats {
  int64_t requests_queued = 0;  // accepted and never run; each sample counts
  int64_t tokens_queued = 0;    // their prompts
  int64_t requests_running = 0;
  int64_t kv_pages_total = 0;
  int64_t kv_pages_used = 0;    // held by live requests
  int64_t kv_pages_cached = 0;  // held by the prefix cache alone
  int64_t steps = 0;
  SteadyTime last_progress{};  // end of the last step, or the last time that there was nothing to do
  absl::Status fault;          // not OK once the device has failed for good
};

// Which queue limit refused a request: the payload of Submit's RESOURCE_EXHAUSTED, under kQueueLimitPayload.
inline constexpr char kQueueLimitPayload[] = "farspan/queue-limit";
inline constexpr char kQueueLimitRequests[] = "requests";
inline constexpr char kQueueLimitTokens[] = "tokens";
inline constexpr char kQueueLimitTenant[] = "tenant";

class EngineLoop;
class EngineInbox;

// Thread-safe. On destruction every live request ends as cancelled with UNAVAILABLE.
class Engine {
 public:
  // FAILED_PRECONDITION or INVALID_ARGUMENT when the parts do not fit the configuration.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(const EngineConfig& config, EngineParts parts);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Starts the engine thread; once.
  void Start();

  // Never blocks. On OK the engine owns the request, shares the sink, and gives it exactly one FinishedEvent. Else
  // nothing is kept and the sink is never called: RESOURCE_EXHAUSTED when a queue limit is reached, UNAVAILABLE when
  // draining or after a fault, INVALID_ARGUMENT when the request could never fit this engine's KV pages,
  // FAILED_PRECONDITION when the backend lacks what the policy needs.
  absl::StatusOr<std::shared_ptr<RequestHandle>> Submit(Request request, std::shared_ptr<OutputSink> sink);

  // Refuses requests from now on; those accepted go on.
  void BeginDrain();
  // Ends every live request as cancelled with UNAVAILABLE.
  void CancelAll();
  // True once no request is live; false at the deadline.
  bool WaitIdle(SteadyTime deadline);

  EngineStats stats() const;
  // The tenant's part of `requests_queued`.
  int64_t requests_queued_of(const std::string& tenant) const;
  const ModelShape& shape() const;
  const ModelInfo& model_info() const;
  const Backend& backend() const;
  int64_t kv_cache_bytes() const;
  const EngineConfig& config() const;

  // Runs one step on the caller's thread instead of Start(), for tests that control time. False when there was nothing
  // to do.
  bool TEST_Step();
  // Until when the engine thread would sleep after a step that had nothing to do; the past once it was rung again.
  SteadyTime TEST_SleepUntil();
  // Who holds which page, between two steps that the caller runs.
  EngineAccounting TEST_Accounting() const;

 private:
  Engine(const EngineConfig& config, EngineParts parts);

  const EngineConfig config_;
  EngineParts parts_;
  std::unique_ptr<EngineInbox> inbox_;
  std::unique_ptr<EngineLoop> loop_;
  std::thread thread_;
};

}  // namespace farspan
