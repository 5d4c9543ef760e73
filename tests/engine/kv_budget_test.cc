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

TEST(DefaultKvCacheBytesTest, IsFourContextsAQuarterOfTheMemoryOrOneContext) {
  constexpr int64_t kContextBytes = 4 * kPageBytes;
  EXPECT_EQ(DefaultKvCacheBytes(kShape, int64_t{1} << 40), 4 * kContextBytes);
  EXPECT_EQ(DefaultKvCacheBytes(kShape, 8 * kContextBytes), 2 * kContextBytes);
  EXPECT_EQ(DefaultKvCacheBytes(kShape, kContextBytes), kContextBytes);
}

TEST(GpuKvPagesTest, TakeWhatTheShareLeavesBesideWhatIsHeld) {
  const GpuBudget budget = {
      .total_bytes = 1'000'000'000, .free_bytes = 1'000'000'000, .held_bytes = 100'000'000, .utilization = 0.4};
  const auto pages = GpuKvPages(budget, kShape, 64);
  ASSERT_THAT(pages, IsOk());
  EXPECT_EQ(*pages, 300'000'000 / (kPageBytes + 64)) << "the side data of each page is counted";
  EXPECT_LE(*pages * (kPageBytes + 64) + budget.held_bytes, 400'000'000);
}

TEST(GpuKvPagesTest, LeaveAReserveOfWhatOthersLeftFree) {
  const GpuBudget budget = {
      .total_bytes = int64_t{4} << 30, .free_bytes = kReserve + 10'000'000, .held_bytes = 1'000'000, .utilization = 1};
  EXPECT_EQ(*GpuKvPages(budget, kShape, 0), 9'000'000 / kPageBytes);
}

TEST(GpuKvPagesTest, LessThanOneContextIsRefusedWithEveryNumber) {
  const GpuBudget budget = {.total_bytes = int64_t{4} << 30,
                            .free_bytes = int64_t{3} << 30,
                            .held_bytes = 429'496'729 - 4 * kPageBytes + 1,
                            .utilization = 0.1};
  EXPECT_THAT(GpuKvPages(budget, kShape, 0),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       AllOf(HasSubstr("one context of 100 tokens needs 4096 bytes"), HasSubstr("4095 are left"),
                             HasSubstr("of the device's 4294967296 bytes 3221225472 were free, 429496729 may be taken"),
                             HasSubstr("429492634 are held"), HasSubstr("--gpu-memory-utilization"))));
  EXPECT_THAT(GpuKvPages({.total_bytes = 1000, .free_bytes = 1000, .held_bytes = 0, .utilization = 1}, kShape, 0),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("and 0 are left")));
}

}  // namespace
}  // namespace farspan
