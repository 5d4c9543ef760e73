// SPDX-License-Identifier: Apache-2.0
#include "engine/kv_budget.h"

#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"

namespace farspan {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

const ModelShape kShape{
    .num_layers = 1, .num_heads = 1, .num_kv_heads = 1, .head_dim = 8, .max_context_tokens = 100, .page_tokens = 32};
constexpr int64_t kPageBytes = 32 * 2 * 8 * 2;
constexpr int64_t kReserve = int64_t{512} << 20;

constexpr int64_t kContextPages = 4;

TEST(DefaultCpuKvPagesTest, AreFourContextsAQuarterOfTheMemoryOrOneContext) {
  constexpr int64_t kContextBytes = kContextPages * kPageBytes;
  EXPECT_EQ(DefaultCpuKvPages({.memory_bytes = int64_t{1} << 40}, kShape, 64), 4 * kContextPages);
  EXPECT_EQ(DefaultCpuKvPages({.memory_bytes = 8 * kContextBytes}, kShape, 64), 2 * kContextPages);
  EXPECT_EQ(DefaultCpuKvPages({.memory_bytes = kContextBytes}, kShape, 64), kContextPages);
}

TEST(DefaultCpuKvPagesTest, FitBesideWhatIsHeldWithTheirSideData) {
  constexpr int64_t kMemory = 64 * kPageBytes, kSide = kPageBytes / 4;
  const auto pages = [](int64_t held) {
    return DefaultCpuKvPages({.memory_bytes = kMemory, .held_bytes = held}, kShape, kSide);
  };
  EXPECT_EQ(pages(0), 4 * kContextPages);
  EXPECT_EQ(pages(kMemory - 10 * (kPageBytes + kSide)), 10);
  EXPECT_EQ(pages(kMemory), kContextPages) << "whether it fits or not";
  EXPECT_EQ(pages(2 * kMemory), kContextPages);
}

TEST(CheckCpuKvPagesTest, RefusesWithEveryNumberWhatDoesNotFit) {
  const CpuBudget budget = {.memory_bytes = 10'000, .held_bytes = 10'000 - 4 * (kPageBytes + 64)};
  EXPECT_THAT(CheckCpuKvPages(budget, kShape, 64, 4), IsOk());
  EXPECT_THAT(CheckCpuKvPages(budget, kShape, 64, 5),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       AllOf(HasSubstr("KV pages of 5120 bytes, their side data of 320 and the 5648 held by the model "
                                       "need 11088 bytes together, and the memory has 10000"),
                             HasSubstr("; lower --kv-cache-bytes"))));
}

TEST(GpuKvPagesTest, TakeWhatTheShareLeavesBesideAllThatIsTaken) {
  const GpuBudget budget = {.whole = {.total_bytes = 1'000'000'000, .free_bytes = 900'000'000}, .utilization = 0.4};
  const auto pages = GpuKvPages(budget, kShape, 64);
  ASSERT_THAT(pages, IsOk());
  EXPECT_EQ(*pages, 300'000'000 / (kPageBytes + 64)) << "the side data of each page is counted";
}

TEST(GpuKvPagesTest, LeaveAReserveWhateverTheShare) {
  const GpuBudget budget = {.whole = {.total_bytes = int64_t{4} << 30, .free_bytes = kReserve + 10'000'000},
                            .utilization = 1};
  EXPECT_EQ(*GpuKvPages(budget, kShape, 0), 10'000'000 / kPageBytes);
}

TEST(GpuKvPagesTest, LessThanOneContextIsRefusedWithEveryNumber) {
  constexpr int64_t kTotal = int64_t{4} << 30;
  const GpuBudget budget = {.whole = {.total_bytes = kTotal, .free_bytes = kTotal - (429'496'729 - 4 * kPageBytes + 1)},
                            .utilization = 0.1,
                            .held_text = "held: weights 5 bytes"};
  EXPECT_THAT(GpuKvPages(budget, kShape, 0),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       AllOf(HasSubstr("one context of 100 tokens needs 4096 bytes"),
                             HasSubstr("4095 are left of the 429496729 that --gpu-memory-utilization 0.1 gives"),
                             HasSubstr("; held: weights 5 bytes; lower --max-model-len"))));
  EXPECT_THAT(GpuKvPages({.whole = {.total_bytes = 1000, .free_bytes = 1000}, .utilization = 1}, kShape, 0),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("and 0 are left")));
}

}  // namespace
}  // namespace farspan
