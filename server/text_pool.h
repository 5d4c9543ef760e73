// SPDX-License-Identifier: Apache-2.0
// Threads for what is too slow for a gRPC thread: checking, tokenising and detokenising requests.
#pragma once

#include <functional>
#include <thread>
#include <vector>

#include "engine/base/bounded_queue.h"

namespace farspan {

// Thread-safe. Tasks are run in the order given, as threads become free.
class TextPool {
 public:
  TextPool(int num_threads, size_t max_waiting_tasks);
  // Runs what waits, then joins.
  ~TextPool();
  TextPool(const TextPool&) = delete;
  TextPool& operator=(const TextPool&) = delete;

  // Never blocks; false when full, and the task is not kept.
  [[nodiscard]] bool TryRun(std::function<void()> task);

 private:
  BoundedQueue<std::function<void()>> tasks_;
  std::vector<std::thread> threads_;
};

}  // namespace farspan
