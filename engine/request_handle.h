// SPDX-License-Identifier: Apache-2.0
// A caller's hold on an accepted request: the one thing that another thread may do to it is to cancel it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "engine/base/mutex.h"
#include "engine/output.h"

namespace farspan {

// Wakes the engine thread. Thread-safe.
class Doorbell {
 public:
  void Ring();
  // Returns at once if rung since the last wait.
  void WaitUntil(SteadyTime deadline);
  // True if rung since the last wait or take.
  bool TakeRing();

 private:
  Mutex mutex_;
  CondVar rung_changed_;
  bool rung_ ABSL_GUARDED_BY(mutex_) = false;
};

// Thread-safe; may outlive the engine.
class RequestHandle {
 public:
  explicit RequestHandle(std::shared_ptr<Doorbell> doorbell) : doorbell_(std::move(doorbell)) {}

  // Ends the request within two steps; a no-op once it has ended.
  void Cancel();
  // Ends one sample as kStop: a stop string was found in its text. A no-op after Cancel; a later Cancel leaves it be.
  void StopSample(int sample);

  bool cancelled() const { return (state_.load(std::memory_order_acquire) & kCancelled) != 0; }
  bool stopped(int sample) const { return (state_.load(std::memory_order_acquire) & SampleBit(sample)) != 0; }

 private:
  static constexpr uint32_t kCancelled = 1u << 31;
  static constexpr uint32_t SampleBit(int sample) { return 1u << sample; }
  void Set(uint32_t bit);

  const std::shared_ptr<Doorbell> doorbell_;
  std::atomic<uint32_t> state_{0};
};

}  // namespace farspan
