// SPDX-License-Identifier: Apache-2.0
#include "engine/model/dequantize.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "tests/engine/model/dequantize_golden.h"
#include "tests/support/gguf_writer.h"

namespace farspan {
namespace {

std::span<const std::byte> Bytes(const std::string& bytes) { return std::as_bytes(std::span(bytes)); }

TEST(DequantizeTest, EveryTypeAgreesWithAnIndependentImplementation) {
  std::map<GgufTensorType, int> rows_by_type;
  for (const GoldenRow& row : ReadDequantizeGolden()) {
    std::vector<float> values(row.values.size());
    DequantizeRow(row.type, Bytes(row.bytes), values);
    const auto block_values = static_cast<size_t>(TraitsOf(row.type).block_values);
    for (size_t i = 0; i < values.size(); ++i) {
      const auto block = std::span(row.values).subspan(i / block_values * block_values, block_values);
      float largest = 0;
      for (const float value : block) largest = std::max(largest, std::fabs(value));
      // A value is a difference of two products: a last bit of the larger ones may differ where they are fused.
      EXPECT_NEAR(values[i], row.values[i], 0x1p-22f * largest) << TraitsOf(row.type).name << " value " << i;
    }
    EXPECT_TRUE(RowIsFinite(row.type, Bytes(row.bytes))) << TraitsOf(row.type).name;
    ++rows_by_type[row.type];
  }
  EXPECT_EQ(rows_by_type.size(), kGgufTensorTypes.size());
}

TEST(DequantizeTest, ANanScaleIsFoundInEveryTypeAndPosition) {
  constexpr uint16_t kNanF16 = 0x7e01;
  for (const GoldenRow& row : ReadDequantizeGolden()) {
    const GgufTensorType type = row.type;
    const auto block_bytes = static_cast<size_t>(TraitsOf(type).block_bytes);
    const size_t last_block = row.bytes.size() - block_bytes;
    size_t found = 0;
    for (size_t offset = last_block; offset + 2 <= row.bytes.size(); offset += 2) {
      std::string changed = row.bytes;
      std::memcpy(changed.data() + offset, &kNanF16, sizeof(kNanF16));
      std::vector<float> values(row.values.size());
      DequantizeRow(type, Bytes(changed), values);
      bool finite = true;
      for (const float value : values) finite = finite && std::isfinite(value);
      EXPECT_EQ(RowIsFinite(type, Bytes(changed)), finite)
          << TraitsOf(row.type).name << " offset " << offset - last_block;
      found += finite ? 0 : 1;
    }
    // F32 and BF16 patterns of 0x7e01 are large numbers; every scaled type has one or two scales.
    const bool scaled = type != GgufTensorType::kF32 && type != GgufTensorType::kBf16;
    EXPECT_GE(found, scaled ? 1u : 0u) << TraitsOf(row.type).name;
  }
}

TEST(DequantizeTest, NonFiniteFloatsAreFound) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    const std::vector<float> values = {1.0f, bad};
    EXPECT_FALSE(RowIsFinite(GgufTensorType::kF32, std::as_bytes(std::span(values))));
    const std::vector<uint16_t> halves = {0x3f80, FloatToBf16(bad)};
    EXPECT_FALSE(RowIsFinite(GgufTensorType::kBf16, std::as_bytes(std::span(halves))));
  }
}

TEST(DequantizeTest, HalfPrecisionSpecialValuesAreExact) {
  EXPECT_EQ(F16ToFloat(0x3c00), 1.0f);
  EXPECT_EQ(F16ToFloat(0x0001), 0x1p-24f);
  EXPECT_EQ(F16ToFloat(0x83ff), -0x3ffp-24f);
  EXPECT_EQ(F16ToFloat(0x7bff), 65504.0f);
  EXPECT_TRUE(std::signbit(F16ToFloat(0x8000)));
  EXPECT_EQ(F16ToFloat(0xfc00), -std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(F16ToFloat(0x7c01)));
}

TEST(DequantizeTest, Bf16RoundsToNearestEvenAndKeepsNan) {
  EXPECT_EQ(FloatToBf16(std::bit_cast<float>(0x3f808000u)), 0x3f80);  // a tie goes to the even neighbour
  EXPECT_EQ(FloatToBf16(std::bit_cast<float>(0x3f818000u)), 0x3f82);
  EXPECT_EQ(FloatToBf16(std::bit_cast<float>(0x3f808001u)), 0x3f81);
  EXPECT_EQ(FloatToBf16(std::numeric_limits<float>::max()), 0x7f80);
  EXPECT_TRUE(std::isnan(Bf16ToFloat(FloatToBf16(std::bit_cast<float>(0x7f800001u)))));
}

TEST(DequantizeTest, TheTestsOwnEncodersStayWithinHalfAStep) {
  std::vector<float> values(64);
  for (size_t i = 0; i < values.size(); ++i) values[i] = std::sin(static_cast<float>(i) * 1.7f);
  const std::map<GgufTensorType, float> tolerance = {{GgufTensorType::kF32, 0.0f},   {GgufTensorType::kF16, 5e-4f},
                                                     {GgufTensorType::kBf16, 4e-3f}, {GgufTensorType::kQ4_0, 0.13f},
                                                     {GgufTensorType::kQ4_1, 0.07f}, {GgufTensorType::kQ8_0, 5e-3f}};
  for (const auto& [type, limit] : tolerance) {
    std::vector<float> decoded(values.size());
    DequantizeRow(type, Bytes(EncodeTensor(type, values)), decoded);
    for (size_t i = 0; i < values.size(); ++i) EXPECT_NEAR(decoded[i], values[i], limit) << TraitsOf(type).name;
  }
}

}  // namespace
}  // namespace farspan
