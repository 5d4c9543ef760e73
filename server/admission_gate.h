// SPDX-License-Identifier: Apache-2.0
// Says no before any work is done: a ticket is a call's places in the queue, taken before its request is tokenised and
// left once the engine counts the request itself.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "engine/base/clock.h"
#include "engine/base/mutex.h"

namespace farspan {

struct GateLimits {
  int64_t max_queued_requests = 256;
  int64_t max_queued_requests_per_tenant = 256;
  int64_t max_queued_tokens = 65536;
};

// What the engine has in its own queue at this moment, samples counted as requests.
struct QueuedInEngine {
  int64_t requests = 0;
  int64_t requests_of_tenant = 0;
  int64_t tokens = 0;
};

// What a call asks for at the door.
struct GateRequest {
  int64_t bytes = 0;  // a quarter stands for the tokens until they are counted
  int64_t slots = 1;  // requests that it will be, one a sample
  std::string tenant;
};

class AdmissionGate;

// A call's stay: first in the queue, then in the engine. Ends on destruction. Move-only.
class AdmissionTicket {
 public:
  AdmissionTicket() = default;
  ~AdmissionTicket() { Release(); }
  AdmissionTicket(AdmissionTicket&& other) noexcept
      : gate_(std::exchange(other.gate_, nullptr)), request_(std::move(other.request_)), queued_(other.queued_) {}
  AdmissionTicket& operator=(AdmissionTicket&& other) noexcept;
  AdmissionTicket(const AdmissionTicket&) = delete;
  AdmissionTicket& operator=(const AdmissionTicket&) = delete;

  // Just before the engine takes the request, which it then counts and may refuse itself; or nobody does.
  void LeaveQueue();
  void Release();

 private:
  friend class AdmissionGate;
  AdmissionTicket(AdmissionGate* gate, GateRequest request)
      : gate_(gate), request_(std::move(request)), queued_(true) {}

  AdmissionGate* gate_ = nullptr;
  GateRequest request_;
  bool queued_ = false;
};

// Thread-safe. Outlives its tickets. Never blocks on the engine.
class AdmissionGate {
 public:
  using EngineQueue = std::function<QueuedInEngine(const std::string& tenant)>;
  AdmissionGate(GateLimits limits, EngineQueue engine_queue, const Clock* clock);

  // RESOURCE_EXHAUSTED (QUEUE_FULL, TENANT_QUOTA, TOKENS_QUEUED) or UNAVAILABLE (DRAINING), with RetryInfo. Whoever
  // asks for more than a limit may still wait alone.
  absl::StatusOr<AdmissionTicket> Take(GateRequest request);

  // From now on every Take is UNAVAILABLE.
  void BeginDrain();
  bool draining() const;

  // Requests have ended, so many samples: feeds the measured drain rate.
  void OnRequestEnded(int64_t slots);
  // When a refused caller should come back: each gets the next turn, one a place that the measured rate will free, at
  // least 50 ms and at most 30 s from now, jittered by a fifth so that they do not come together.
  SteadyDuration RetryDelay();

 private:
  friend class AdmissionTicket;
  void LeaveQueue(const GateRequest& request);
  void Leave();
  absl::Status Refusal(const GateRequest& request, const QueuedInEngine& queued) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const GateLimits limits_;
  const EngineQueue engine_queue_;
  const Clock* const clock_;
  mutable Mutex mutex_;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  // Of tickets in the queue.
  int64_t requests_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t tokens_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::flat_hash_map<std::string, int64_t> requests_by_tenant_ ABSL_GUARDED_BY(mutex_);  // those with any
  int64_t num_calls_ ABSL_GUARDED_BY(mutex_) = 0;                                         // with a ticket
  // The later of the last end and the last time that a call came and found no other: the rate is measured while busy.
  SteadyTime busy_since_ ABSL_GUARDED_BY(mutex_){};
  double mean_gap_seconds_ ABSL_GUARDED_BY(mutex_) = 1.0;  // between ends of requests, moving average
  SteadyTime next_turn_ ABSL_GUARDED_BY(mutex_){};
  std::minstd_rand jitter_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace farspan
