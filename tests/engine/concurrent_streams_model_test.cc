// SPDX-License-Identifier: Apache-2.0
// Many streams at once on SmolLM2, greedy. FARSPAN_TEST_MODEL names the file; without it the test skips.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>

#include "tests/engine/concurrent_streams.h"

namespace farspan {
namespace {

TEST(ConcurrentStreamsModelTest, AnswersEqualThoseOfEachRequestAlone) {
  const char* path = std::getenv("FARSPAN_TEST_MODEL");
  if (path == nullptr) GTEST_SKIP() << "FARSPAN_TEST_MODEL names no model file";
  const auto file = GgufFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  NullMetricsSink metrics;
  const StreamsResult result = CompareStreamsWithEachAlone(
      [&](EngineOptions options) {
        options.device = "cpu";  // whose answers are the same bits in any batch
        options.cpu.num_threads = 2;
        auto engine = CreateEngine(*file, options, &metrics);
        EXPECT_TRUE(engine.ok()) << engine.status();
        return *std::move(engine);
      },
      {.max_prompt_tokens = 60,
       .min_output_tokens = 80,
       .max_output_tokens = 160,
       .shortest_deadline = std::chrono::seconds(2)});
  std::printf("%d completed, %d cut, %lld preemptions\n", result.num_completed, result.num_cut,
              static_cast<long long>(result.num_preemptions));
  EXPECT_EQ(result.num_completed + result.num_cut, 64);
  EXPECT_GT(result.num_completed, 20);
  EXPECT_GT(result.num_preemptions, 0);
}

}  // namespace
}  // namespace farspan
