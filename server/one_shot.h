// SPDX-License-Identifier: Apache-2.0
// An event that happens once and stays.
#pragma once

#include "engine/base/clock.h"
#include "engine/base/mutex.h"

namespace farspan {

// Thread-safe.
class OneShot {
 public:
  void Set() {
    {
      MutexLock lock(&mutex_);
      set_ = true;
    }
    changed_.NotifyAll();
  }
  bool is_set() const {
    MutexLock lock(&mutex_);
    return set_;
  }
  // True once set; false at the deadline.
  bool WaitUntil(SteadyTime deadline) {
    MutexLock lock(&mutex_);
    while (!set_) {
      if (!changed_.WaitUntil(&mutex_, deadline)) return set_;
    }
    return true;
  }

 private:
  mutable Mutex mutex_;
  CondVar changed_;
  bool set_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace farspan
