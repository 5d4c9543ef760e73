// SPDX-License-Identifier: Apache-2.0
#include "engine/base/math.h"

#include <gtest/gtest.h>

#include <limits>

namespace farspan {
namespace {

TEST(MathTest, CeilDivDoesNotOverflowNearTheLimit) {
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  EXPECT_EQ(CeilDiv(0, 32), 0);
  EXPECT_EQ(CeilDiv(32, 32), 1);
  EXPECT_EQ(CeilDiv(33, 32), 2);
  EXPECT_EQ(CeilDiv(kMax, 2), kMax / 2 + 1);
}

TEST(MathTest, CheckedArithmeticReportsOverflow) {
  constexpr uint64_t kMax = std::numeric_limits<uint64_t>::max();
  EXPECT_EQ(CheckedMultiply(1ull << 32, 1ull << 31), 1ull << 63);
  EXPECT_EQ(CheckedMultiply(1ull << 32, 1ull << 32), std::nullopt);
  EXPECT_EQ(CheckedAdd(kMax, 1), std::nullopt);
}

}  // namespace
}  // namespace farspan
