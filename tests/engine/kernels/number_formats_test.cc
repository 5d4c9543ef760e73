// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/cpu/number_formats.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

namespace farspan::kernels {
namespace {

TEST(NumberFormatsTest, HalfToFloatIsExactForEveryValue) {
  for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
    const int exponent = static_cast<int>(bits >> 10 & 0x1f);
    const double mantissa = bits & 0x3ff;
    const double sign = (bits & 0x8000) != 0 ? -1 : 1;
    const float got = HalfToFloat(static_cast<uint16_t>(bits));
    if (exponent == 31) {
      EXPECT_EQ(std::isnan(got), mantissa != 0) << bits;
      EXPECT_EQ(std::isinf(got), mantissa == 0) << bits;
    } else {
      const double magnitude =
          exponent == 0 ? mantissa * 0x1p-24 : (1 + mantissa / 1024) * std::ldexp(1, exponent - 15);
      EXPECT_EQ(static_cast<double>(got), sign * magnitude) << bits;
    }
    EXPECT_EQ(std::signbit(got), sign < 0) << bits;
  }
}

// Bits whose value is nearest to `value`, the even one of two; `largest` is the greatest finite magnitude's.
template <typename Bits, typename ToFloat>
Bits Nearest(double value, Bits largest, const ToFloat& to_float) {
  Bits best = 0;
  for (Bits bits = 0; bits <= largest; ++bits) {
    const double distance = std::fabs(std::fabs(value) - static_cast<double>(to_float(bits)));
    const double least = std::fabs(std::fabs(value) - static_cast<double>(to_float(best)));
    if (distance < least || (distance == least && bits % 2 == 0)) best = bits;
  }
  return best;
}

TEST(NumberFormatsTest, Fp8IsE4m3AndRoundsToNearestEven) {
  for (int bits = 0; bits < 256; ++bits) {
    const int exponent = bits >> 3 & 15, mantissa = bits & 7;
    const float got = Fp8ToFloat(static_cast<uint8_t>(bits));
    EXPECT_EQ(std::signbit(got), bits >= 128) << bits;
    if ((bits & 127) == 127) {
      EXPECT_TRUE(std::isnan(got)) << bits;
      continue;
    }
    const double magnitude = exponent == 0 ? mantissa * 0x1p-9 : (1 + mantissa / 8.0) * std::ldexp(1, exponent - 7);
    EXPECT_EQ(std::fabs(static_cast<double>(got)), magnitude) << bits;
    EXPECT_EQ(FloatToFp8(got), bits);
  }
  std::mt19937 random(1);
  for (int i = 0; i < 4000; ++i) {
    const float value = std::ldexp(static_cast<float>(random() % 4096), static_cast<int>(random() % 22) - 21);
    if (value > 448) continue;
    EXPECT_EQ(FloatToFp8(value), Nearest<uint8_t>(static_cast<double>(value), 0x7e, Fp8ToFloat)) << value;
    EXPECT_EQ(FloatToFp8(-value), 0x80 | FloatToFp8(value)) << value;
  }
  for (const float beyond : {448.1f, 464.0f, 1e30f, std::numeric_limits<float>::infinity()}) {
    EXPECT_EQ(FloatToFp8(beyond), 0x7e);
    EXPECT_EQ(FloatToFp8(-beyond), 0xfe);
  }
  EXPECT_EQ(FloatToFp8(std::numeric_limits<float>::quiet_NaN()) & 0x7f, 0x7f);
}

TEST(NumberFormatsTest, HalfRoundsToNearestEvenAndOverflowsToInfinity) {
  for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
    const float value = HalfToFloat(static_cast<uint16_t>(bits));
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(HalfToFloat(FloatToHalf(value))));
      continue;
    }
    EXPECT_EQ(FloatToHalf(value), bits);
    if (std::isinf(value) || (bits & 0x7fff) == 0x7bff) continue;
    const float next = HalfToFloat(static_cast<uint16_t>(bits + 1)), middle = (value + next) / 2;
    EXPECT_EQ(FloatToHalf(middle), bits % 2 == 0 ? bits : bits + 1) << "a tie";
    EXPECT_EQ(FloatToHalf(std::nextafter(middle, value)), bits);
    EXPECT_EQ(FloatToHalf(std::nextafter(middle, next)), bits + 1);
  }
  EXPECT_EQ(FloatToHalf(65519.99f), 0x7bff);
  EXPECT_EQ(FloatToHalf(65520.0f), 0x7c00);
  EXPECT_EQ(FloatToHalf(-1e30f), 0xfc00);
}

TEST(NumberFormatsTest, Bf16RoundsToNearestEven) {
  EXPECT_EQ(FloatToBf16(1.0f), 0x3f80);
  EXPECT_EQ(FloatToBf16(std::bit_cast<float>(0x3f808000u)), 0x3f80);  // a tie goes to the even neighbour below
  EXPECT_EQ(FloatToBf16(std::bit_cast<float>(0x3f818000u)), 0x3f82);  // and to the one above
  EXPECT_EQ(FloatToBf16(std::bit_cast<float>(0x3f808001u)), 0x3f81);
  EXPECT_EQ(FloatToBf16(std::bit_cast<float>(0x3f807fffu)), 0x3f80);
  EXPECT_EQ(FloatToBf16(-0.0f), 0x8000);
  EXPECT_EQ(FloatToBf16(std::numeric_limits<float>::max()), 0x7f80);
}

TEST(NumberFormatsTest, Bf16KeepsNanAndInfinity) {
  EXPECT_TRUE(std::isnan(Bf16ToFloat(FloatToBf16(std::numeric_limits<float>::quiet_NaN()))));
  EXPECT_TRUE(std::isnan(Bf16ToFloat(FloatToBf16(std::bit_cast<float>(0x7f800001u)))));  // payload in the low half
  EXPECT_TRUE(std::isnan(Bf16ToFloat(FloatToBf16(std::bit_cast<float>(0xffffffffu)))));
  EXPECT_EQ(Bf16ToFloat(FloatToBf16(-std::numeric_limits<float>::infinity())), -std::numeric_limits<float>::infinity());
}

}  // namespace
}  // namespace farspan::kernels
