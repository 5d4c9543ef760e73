// SPDX-License-Identifier: Apache-2.0
// Says no before any work is done: a ticket is a place in the queue, taken before a request is tokenised and given back
// once the engine counts the request itself.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <random>

#include "absl/status/statusor.h"
#include "engine/base/clock.h"
#include "engine/base/mutex.h"

namespace farspan {

struct GateLimits {
  int64_t max_queued_requests = 256;
  int64_t max_queued_tokens = 65536;
};

// What the engine has in its own queue at this moment.
struct QueuedInEngine {
  int64_t requests = 0;
  int64_t tokens = 0;
};

class AdmissionGate;

// One place held in the gate; returned on destruction. Move-only.
class AdmissionTicket {
 public:
  AdmissionTicket() = default;
  ~AdmissionTicket() { Release(); }
  AdmissionTicket(AdmissionTicket&& other) noexcept
      : gate_(std::exchange(other.gate_, nullptr)), tokens_(other.tokens_) {}
  AdmissionTicket& operator=(AdmissionTicket&& other) noexcept;
  AdmissionTicket(const AdmissionTicket&) = delete;
  AdmissionTicket& operator=(const AdmissionTicket&) = delete;

  void Release();

 private:
  friend class AdmissionGate;
  AdmissionTicket(AdmissionGate* gate, int64_t tokens) : gate_(gate), tokens_(tokens) {}

  AdmissionGate* gate_ = nullptr;
  int64_t tokens_ = 0;
};

// Thread-safe. Outlives its tickets. Never blocks on the engine.
class AdmissionGate {
 public:
  AdmissionGate(GateLimits limits, std::function<QueuedInEngine()> engine_queue, const Clock* clock);

  // `request_bytes` / 4 stands for the tokens until they are counted. RESOURCE_EXHAUSTED (QUEUE_FULL, TOKENS_QUEUED) or
  // UNAVAILABLE (DRAINING), with RetryInfo.
  absl::StatusOr<AdmissionTicket> Take(int64_t request_bytes);

  // From now on every Take is UNAVAILABLE.
  void BeginDrain();
  bool draining() const;

  // A request has ended: feeds the measured drain rate.
  void OnRequestEnded();
  // When a refused caller should come back: the time that the queue needs at the measured rate to pass one place on,
  // between 50 ms and 30 s, jittered by a fifth.
  SteadyDuration RetryDelay();

 private:
  friend class AdmissionTicket;
  void Return(int64_t tokens);

  const GateLimits limits_;
  const std::function<QueuedInEngine()> engine_queue_;
  const Clock* const clock_;
  mutable Mutex mutex_;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t requests_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t tokens_ ABSL_GUARDED_BY(mutex_) = 0;
  SteadyTime last_end_ ABSL_GUARDED_BY(mutex_){};
  double mean_gap_seconds_ ABSL_GUARDED_BY(mutex_) = 1.0;  // between ends of requests, moving average
  std::minstd_rand jitter_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace farspan
