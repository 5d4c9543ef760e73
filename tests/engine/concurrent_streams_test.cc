// SPDX-License-Identifier: Apache-2.0
// Many streams at once on the hash model, under the engine's own thread.
#include "tests/engine/concurrent_streams.h"

#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "engine/model/hash_model_options.h"
#include "tests/support/engine_harness.h"

namespace farspan {
namespace {

using std::chrono::milliseconds;

TEST(ConcurrentStreamsTest, AnswersEqualThoseOfEachRequestAlone) {
  NullMetricsSink metrics;
  int64_t step_us = 0;  // nobody waits for those that run alone
  const StreamsResult result = CompareStreamsWithEachAlone(
      [&](const EngineOptions& options) {
        auto engine = CreateEngine(HashModelOptions{.step_us = std::exchange(step_us, 500)}, options, &metrics);
        EXPECT_TRUE(engine.ok()) << engine.status();
        return *std::move(engine);
      },
      // All of them begin and grow to many times what they begin with: pages run out whatever the timing.
      {.max_prompt_tokens = 60,
       .min_output_tokens = 200,
       .max_output_tokens = 500,
       .shortest_deadline = milliseconds(20)});
  EXPECT_EQ(result.num_completed + result.num_cut, 64);
  EXPECT_GT(result.num_completed, 20);
  EXPECT_GT(result.num_cut, 5);
  EXPECT_GT(result.num_preemptions, 5);
}

// The engine's thread falls asleep between bursts. Were it not woken, the wait would run out and the test fail.
TEST(ConcurrentStreamsTest, EverySubmitAndCancelWakesTheEngine) {
  constexpr int kBursts = 300;
  constexpr int kThreads = 3;
  EngineHarness harness({.engine = {.max_num_seqs = 4, .max_num_batched_tokens = 32}, .num_pages = 24});
  harness.engine().Start();
  for (int burst = 0; burst < kBursts; ++burst) {
    std::vector<LiveRequest> live(kThreads);
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&harness, &mine = live[static_cast<size_t>(t)], burst, t] {
        std::mt19937 random(static_cast<uint32_t>(burst * kThreads + t));
        const auto length = static_cast<int64_t>(1 + random() % 40);
        mine = harness.Submit(harness.MakeRequest(MakePrompt(length, t), 1 + random() % 30));
        if (random() % 2 == 0) mine.handle->Cancel();
      });
    }
    for (std::thread& thread : threads) thread.join();
    ASSERT_TRUE(harness.engine().WaitIdle(Clock::Real()->Now() + std::chrono::seconds(60))) << "burst " << burst;
    for (const LiveRequest& request : live) ASSERT_TRUE(request.output->finished().has_value());
    ASSERT_EQ(harness.engine().stats().kv_pages_used, 0);
  }
}

}  // namespace
}  // namespace farspan
