// SPDX-License-Identifier: Apache-2.0
// A caller's hold on an accepted request: the one thing that another thread may do to it is to cancel it.
#pragma once

#include <atomic>
#include <memory>
#include <optional>

#include "engine/base/mutex.h"
#include "engine/output.h"

namespace farspan {

// Wakes the engine thread. Thread-safe.
class Doorbell {
 public:
  void Ring();
  // Returns at once if rung since the last wait.
  void WaitUntil(SteadyTime deadline);

 private:
  Mutex mutex_;
  CondVar rung_changed_;
  bool rung_ ABSL_GUARDED_BY(mutex_) = false;
};

// Thread-safe; may outlive the engine.
class RequestHandle {
 public:
  explicit RequestHandle(std::shared_ptr<Doorbell> doorbell) : doorbell_(std::move(doorbell)) {}

  // Ends the request within two steps; a no-op once it has ended. The first reason given counts.
  void Cancel(CancelReason reason);
  std::optional<CancelReason> cancelled() const;

 private:
  static constexpr int kNotCancelled = -1;
  const std::shared_ptr<Doorbell> doorbell_;
  std::atomic<int> cancel_{kNotCancelled};
};

}  // namespace farspan
