// SPDX-License-Identifier: Apache-2.0
#include "engine/base/thread_pool.h"

#include "engine/base/check.h"

namespace farspan {
namespace {

// About 20 microseconds on a 3 GHz core: longer than the gap between two kernels of one layer, shorter than a
// scheduler tick, so that an idle server sleeps.
constexpr int kSpinIterations = 2000;

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
  body_ = &body;
  num_tasks_ = num_tasks;
  next_task_.store(0, std::memory_order_relaxed);
  active_workers_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  {
    MutexLock lock(&mutex_);
    generation_.fetch_add(1, std::memory_order_release);
  }
  wake_.NotifyAll();
  RunTasks(0);
  for (int spin = 0; active_workers_.load(std::memory_order_acquire) != 0; ++spin) {
    if (spin < kSpinIterations) {
      CpuRelax();
    } else {
      std::this_thread::yield();
    }
  }
}

void ThreadPool::RunTasks(int thread) {
  for (;;) {
    const int64_t task = next_task_.fetch_add(1, std::memory_order_relaxed);
    if (task >= num_tasks_) return;
    (*body_)(task, thread);
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
    active_workers_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace farspan
