// SPDX-License-Identifier: Apache-2.0
#include "engine/base/thread_pool.h"

#include <limits>

#include "engine/base/check.h"

namespace farspan {
namespace {

// Some 20 microseconds: longer than the gap between two kernels of one layer, shorter than a scheduler tick, so that an
// idle server sleeps.
constexpr int kSpinIterations = 2000;
constexpr uint64_t kTasksMask = std::numeric_limits<uint32_t>::max();

inline void CpuRelax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

ThreadPool::ThreadPool(int num_threads) {
  FARSPAN_CHECK(num_threads >= 1, "num_threads=", num_threads);
  workers_.reserve(static_cast<size_t>(num_threads - 1));
  for (int thread = 1; thread < num_threads; ++thread) {
    workers_.emplace_back([this, thread] { WorkerLoop(thread); });
  }
}

ThreadPool::~ThreadPool() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
    generation_.fetch_add(1, std::memory_order_release);
  }
  wake_.NotifyAll();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::ParallelFor(int64_t num_tasks, const std::function<void(int64_t, int)>& body) {
  if (num_tasks <= 0) return;
  if (workers_.empty() || num_tasks == 1) {
    for (int64_t task = 0; task < num_tasks; ++task) body(task, 0);
    return;
  }
  FARSPAN_CHECK(static_cast<uint64_t>(num_tasks) <= kTasksMask, "num_tasks=", num_tasks);
  body_ = &body;
  num_tasks_ = num_tasks;
  tasks_unfinished_.store(num_tasks, std::memory_order_relaxed);
  const uint64_t loop = (tasks_left_.load(std::memory_order_relaxed) >> 32) + 1;
  tasks_left_.store(loop << 32 | static_cast<uint64_t>(num_tasks), std::memory_order_release);
  {
    MutexLock lock(&mutex_);
    generation_.fetch_add(1, std::memory_order_release);
  }
  wake_.NotifyAll();
  RunTasks(0);
  for (int spin = 0; tasks_unfinished_.load(std::memory_order_acquire) != 0; ++spin) {
    if (spin < kSpinIterations) {
      CpuRelax();
    } else {
      std::this_thread::yield();
    }
  }
}

void ThreadPool::RunTasks(int thread) {
  uint64_t left = tasks_left_.load(std::memory_order_acquire);
  while ((left & kTasksMask) != 0) {
    if (!tasks_left_.compare_exchange_weak(left, left - 1, std::memory_order_acq_rel, std::memory_order_acquire)) {
      continue;
    }
    (*body_)(num_tasks_ - static_cast<int64_t>(left & kTasksMask), thread);
    tasks_unfinished_.fetch_sub(1, std::memory_order_release);
    left = tasks_left_.load(std::memory_order_acquire);
  }
}

void ThreadPool::WorkerLoop(int thread) {
  uint64_t seen = 0;
  for (;;) {
    for (int spin = 0; spin < kSpinIterations && generation_.load(std::memory_order_acquire) == seen; ++spin) {
      CpuRelax();
    }
    {
      MutexLock lock(&mutex_);
      while (generation_.load(std::memory_order_acquire) == seen) wake_.Wait(&mutex_);
      if (stopping_) return;
    }
    seen = generation_.load(std::memory_order_acquire);
    RunTasks(thread);
  }
}

}  // namespace farspan
