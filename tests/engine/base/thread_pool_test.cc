// SPDX-License-Identifier: Apache-2.0
#include "engine/base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <vector>

namespace farspan {
namespace {

TEST(ThreadPoolTest, RunsEachTaskOnceForAnyNumberOfThreads) {
  for (int num_threads : {1, 2, 5}) {
    ThreadPool pool(num_threads);
    for (int64_t num_tasks : {0, 1, 2, 3, 64, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<size_t>(num_tasks));
      pool.ParallelFor(num_tasks, [&](int64_t task, int thread) {
        ASSERT_GE(thread, 0);
        ASSERT_LT(thread, num_threads);
        runs[static_cast<size_t>(task)].fetch_add(1);
      });
      for (const auto& count : runs) EXPECT_EQ(count.load(), 1);
    }
  }
}

TEST(ThreadPoolTest, EffectsOfOneLoopAreSeenByTheNext) {
  ThreadPool pool(3);
  std::vector<int64_t> values(512, 0);
  for (int round = 0; round < 500; ++round) {
    pool.ParallelFor(512, [&](int64_t task, int) { values[static_cast<size_t>(task)] += task; });
  }
  for (int64_t i = 0; i < 512; ++i) EXPECT_EQ(values[static_cast<size_t>(i)], 500 * i);
}

}  // namespace
}  // namespace farspan
