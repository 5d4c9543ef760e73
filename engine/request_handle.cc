// SPDX-License-Identifier: Apache-2.0
#include "engine/request_handle.h"

namespace farspan {

void Doorbell::Ring() {
  {
    MutexLock lock(&mutex_);
    rung_ = true;
  }
  rung_changed_.NotifyOne();
}

void Doorbell::WaitUntil(SteadyTime deadline) {
  MutexLock lock(&mutex_);
  while (!rung_) {
    if (deadline == kNoDeadline) {
      rung_changed_.Wait(&mutex_);
    } else if (!rung_changed_.WaitUntil(&mutex_, deadline)) {
      break;
    }
  }
  rung_ = false;
}

void RequestHandle::Cancel(CancelReason reason) {
  int expected = kNotCancelled;
  if (cancel_.compare_exchange_strong(expected, static_cast<int>(reason), std::memory_order_acq_rel)) {
    doorbell_->Ring();
  }
}

std::optional<CancelReason> RequestHandle::cancelled() const {
  const int reason = cancel_.load(std::memory_order_acquire);
  if (reason == kNotCancelled) return std::nullopt;
  return static_cast<CancelReason>(reason);
}

}  // namespace farspan
