// SPDX-License-Identifier: Apache-2.0
// Fixed workers for the CPU kernels: one parallel loop at a time; idle workers spin briefly, then sleep.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

#include "engine/base/mutex.h"

namespace farspan {

// Owned by one caller thread, which takes part in each loop; ParallelFor is not re-entrant and not thread-safe.
class ThreadPool {
 public:
  // `num_threads` counts the caller: 1 starts no worker.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Runs body(task, thread) for each task in [0, num_tasks), thread in [0, num_threads()); returns when all are done.
  // Tasks are handed out one by one, in ascending order, to whichever thread is free. A worker that the machine does
  // not run in time takes none, so a busy machine costs no more than its share. At most 2^32 - 1 tasks.
  void ParallelFor(int64_t num_tasks, const std::function<void(int64_t task, int thread)>& body);

 private:
  void WorkerLoop(int thread);
  // Runs tasks until none is left to take.
  void RunTasks(int thread);

  std::vector<std::thread> workers_;

  // Of the current loop. Written before tasks_left_ publishes it; stable while one of its tasks is not done.
  const std::function<void(int64_t, int)>* body_ = nullptr;
  int64_t num_tasks_ = 0;
  // The loop's number in the high half, tasks not handed out yet in the low one: taking a task compares both, so a late
  // worker can never take a task of a loop that it does not know to be alive.
  std::atomic<uint64_t> tasks_left_{0};
  std::atomic<int64_t> tasks_unfinished_{0};

  std::atomic<uint64_t> generation_{0};  // changes with each loop and at the end
  Mutex mutex_;
  CondVar wake_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace farspan
