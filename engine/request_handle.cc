// SPDX-License-Identifier: Apache-2.0
#include "engine/request_handle.h"

#include <utility>

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

bool Doorbell::TakeRing() {
  MutexLock lock(&mutex_);
  return std::exchange(rung_, false);
}

void RequestHandle::Cancel() { Set(kCancelled); }

void RequestHandle::StopSample(int sample) { Set(SampleBit(sample)); }

void RequestHandle::Set(uint32_t bit) {
  uint32_t state = state_.load(std::memory_order_acquire);
  do {
    if ((state & (bit | kCancelled)) != 0) return;
  } while (!state_.compare_exchange_weak(state, state | bit, std::memory_order_acq_rel));
  doorbell_->Ring();
}

}  // namespace farspan
