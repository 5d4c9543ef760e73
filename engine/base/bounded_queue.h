// SPDX-License-Identifier: Apache-2.0
// A queue with a capacity and an end. Thread-safe: any number of producers and consumers.
#pragma once

#include <cstddef>
#include <deque>
#include <optional>
#include <utility>

#include "engine/base/mutex.h"

namespace farspan {

template <typename T>
class BoundedQueue {
 public:
  explicit BoundedQueue(size_t capacity) : capacity_(capacity) {}

  // Never blocks. False when full or closed: `value` is untouched then and stays the caller's.
  [[nodiscard]] bool TryPush(T&& value) {
    {
      MutexLock lock(&mutex_);
      if (closed_ || items_.size() >= capacity_) return false;
      items_.push_back(std::move(value));
    }
    changed_.NotifyOne();
    return true;
  }

  // Waits for an item; nullopt once the queue is closed and empty.
  std::optional<T> Pop() {
    MutexLock lock(&mutex_);
    while (items_.empty() && !closed_) changed_.Wait(&mutex_);
    return TakeFront();
  }

  // Never blocks; nullopt when empty.
  std::optional<T> TryPop() {
    MutexLock lock(&mutex_);
    return TakeFront();
  }

  // Refuses further pushes and wakes every waiter; items already queued can still be popped.
  void Close() {
    {
      MutexLock lock(&mutex_);
      closed_ = true;
    }
    changed_.NotifyAll();
  }

  size_t size() const {
    MutexLock lock(&mutex_);
    return items_.size();
  }

 private:
  std::optional<T> TakeFront() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (items_.empty()) return std::nullopt;
    std::optional<T> front(std::move(items_.front()));
    items_.pop_front();
    return front;
  }

  const size_t capacity_;
  mutable Mutex mutex_;
  CondVar changed_;
  std::deque<T> items_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace farspan
