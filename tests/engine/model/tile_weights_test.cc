// SPDX-License-Identifier: Apache-2.0
#include "engine/model/tile_weights.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "engine/kernels/cpu/portable/kernels.h"
#include "engine/kernels/weight_tiles.h"
#include "engine/model/dequantize.h"
#include "tests/engine/kernels/kernel_test_support.h"

namespace farspan {
namespace {

constexpr int64_t kRows = 32, kColumns = 512;

struct TiledCase {
  GgufTensorType type;
  std::vector<size_t> half_floats;  // their offsets in a block
  bool is_exact;
};

const TiledCase kCases[] = {{GgufTensorType::kQ4_0, {0}, true},     {GgufTensorType::kQ4_1, {0, 2}, true},
                            {GgufTensorType::kQ5_0, {0}, true},     {GgufTensorType::kQ5_1, {0, 2}, true},
                            {GgufTensorType::kQ8_0, {0}, true},     {GgufTensorType::kQ4_K, {0, 2}, false},
                            {GgufTensorType::kQ5_K, {0, 2}, false}, {GgufTensorType::kQ6_K, {208}, false}};

std::vector<std::byte> RandomRows(const TiledCase& tiled, kernels::Random* random) {
  const GgufTensorTypeTraits& traits = TraitsOf(tiled.type);
  std::vector<std::byte> bytes(static_cast<size_t>(kRows * kColumns / traits.block_values * traits.block_bytes));
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random->Integer(0, 255));
  for (size_t block = 0; block < bytes.size(); block += static_cast<size_t>(traits.block_bytes)) {
    for (const size_t offset : tiled.half_floats) {
      const uint16_t half = FloatToF16(random->Real(-0.1f, 0.1f));
      std::memcpy(bytes.data() + block + offset, &half, sizeof(half));
    }
  }
  return bytes;
}

TEST(TileWeightsTest, TilesStandForTheValuesOfTheirBlocks) {
  kernels::Random random;
  for (const TiledCase& tiled : kCases) {
    const auto type = TiledType(tiled.type, kRows, kColumns);
    ASSERT_TRUE(type.has_value());
    const std::vector<std::byte> rows = RandomRows(tiled, &random);
    std::vector<std::byte> tiles(static_cast<size_t>(kRows * kernels::WeightRowBytes(*type, kColumns)));
    ASSERT_EQ(PackTiles(tiled.type, rows, kRows, kColumns, tiles), std::nullopt);
    const kernels::WeightView view = {.data = tiles.data(), .type = *type, .rows = kRows, .columns = kColumns};
    const size_t row_bytes = rows.size() / kRows;
    for (int64_t row = 0; row < kRows; ++row) {
      std::vector<float> expected(kColumns), got(kColumns);
      DequantizeRow(tiled.type, std::span(rows).subspan(static_cast<size_t>(row) * row_bytes, row_bytes), expected);
      kernels::portable::DequantizeRow(view, row, got.data());
      float largest = 0;
      for (const float value : expected) largest = std::max(largest, std::fabs(value));
      for (size_t i = 0; i < kColumns; ++i) {
        ASSERT_NEAR(got[i], expected[i], tiled.is_exact ? 0 : 0x1p-10f * largest)
            << TraitsOf(tiled.type).name << " row " << row << " column " << i;
      }
    }
  }
}

TEST(TileWeightsTest, PanelsStandForTheValuesOfTheirBlocks) {
  kernels::Random random;
  int covered = 0;
  for (const TiledCase& tiled : kCases) {
    const auto type = PanelType(tiled.type, kRows, kColumns);
    if (!type.has_value()) continue;
    ++covered;
    const std::vector<std::byte> rows = RandomRows(tiled, &random);
    std::vector<std::byte> panels(static_cast<size_t>(kRows * kernels::WeightRowBytes(*type, kColumns)),
                                  std::byte{0xff});
    ASSERT_TRUE(PackPanels(tiled.type, rows, kRows, kColumns, panels));
    const kernels::WeightView view = {.data = panels.data(), .type = *type, .rows = kRows, .columns = kColumns};
    const size_t row_bytes = rows.size() / kRows;
    for (int64_t row = 0; row < kRows; ++row) {
      std::vector<float> expected(kColumns), got(kColumns);
      DequantizeRow(tiled.type, std::span(rows).subspan(static_cast<size_t>(row) * row_bytes, row_bytes), expected);
      kernels::portable::DequantizeRow(view, row, got.data());
      float largest = 0;
      for (const float value : expected) largest = std::max(largest, std::fabs(value));
      for (size_t i = 0; i < kColumns; ++i) {
        ASSERT_NEAR(got[i], expected[i], tiled.is_exact ? 0 : 0x1p-10f * largest)
            << TraitsOf(tiled.type).name << " row " << row << " column " << i;
      }
    }
  }
  EXPECT_EQ(covered, 5);
}

TEST(TileWeightsTest, ShapesThatTilesDoNotCoverHaveNone) {
  EXPECT_FALSE(PanelType(GgufTensorType::kQ4_0, 24, 64).has_value());
  EXPECT_FALSE(PanelType(GgufTensorType::kQ4_0, 32, 48).has_value());
  EXPECT_FALSE(PanelType(GgufTensorType::kQ6_K, 32, 256).has_value());
  EXPECT_FALSE(TiledType(GgufTensorType::kQ4_0, 24, 64).has_value());
  EXPECT_FALSE(TiledType(GgufTensorType::kQ4_0, 32, 96).has_value());
  EXPECT_FALSE(TiledType(GgufTensorType::kBf16, 32, 64).has_value());
}

TEST(TileWeightsTest, TheRowOfAScaleBeyondHalfFloatsIsReported) {
  kernels::Random random;
  std::vector<std::byte> rows = RandomRows(kCases[5], &random);
  const uint16_t huge = FloatToF16(60000.0f);
  constexpr size_t kRow = 5;
  std::byte* block = rows.data() + kRow * (rows.size() / kRows);
  std::memcpy(block, &huge, sizeof(huge));
  block[4] = std::byte{63};  // the first group's scale
  std::vector<std::byte> tiles(
      static_cast<size_t>(kRows * kernels::WeightRowBytes(kernels::WeightType::kTiled4Min, kColumns)));
  EXPECT_EQ(PackTiles(GgufTensorType::kQ4_K, rows, kRows, kColumns, tiles), std::optional<int64_t>(kRow));
}

TEST(TileWeightsTest, BlocksArePutOneByOneAsTheyArePackedTogether) {
  kernels::Random random;
  for (const TiledCase& tiled : {kCases[0], kCases[4]}) {
    const std::vector<std::byte> rows = RandomRows(tiled, &random);
    const kernels::WeightType type = *TiledType(tiled.type, kRows, kColumns);
    std::vector<std::byte> expected(rows.size()), got(rows.size(), std::byte{0xff});
    ASSERT_EQ(PackTiles(tiled.type, rows, kRows, kColumns, expected), std::nullopt);
    const kernels::TileTraits traits = kernels::TraitsOfTiles(type);
    const auto* block = reinterpret_cast<const uint8_t*>(rows.data());
    for (int64_t row = 0; row < kRows; ++row) {
      for (int64_t column = 0; column < kColumns; column += 32, block += TraitsOf(tiled.type).block_bytes) {
        auto* tile = reinterpret_cast<uint8_t*>(got.data()) + kernels::TileOffset(traits, kColumns, row, column);
        kernels::PutBlock(traits, block, static_cast<int>(row % 16), static_cast<int>(column / 32 % 2), tile);
      }
    }
    EXPECT_EQ(got, expected) << TraitsOf(tiled.type).name;
  }
}

TEST(FloatToF16Test, RoundsToNearestEven) {
  for (int bits = 0; bits < 0x10000; ++bits) {
    const float value = F16ToFloat(static_cast<uint16_t>(bits));
    if (std::isnan(value)) continue;
    EXPECT_EQ(FloatToF16(value), bits);
  }
  EXPECT_EQ(FloatToF16(1.0f + 0x1p-11f), 0x3c00);
  EXPECT_EQ(FloatToF16(1.0f + 3 * 0x1p-11f), 0x3c02);
  EXPECT_EQ(FloatToF16(65519.0f), 0x7bff);
  EXPECT_EQ(FloatToF16(65520.0f), 0x7c00);
  EXPECT_EQ(FloatToF16(0x1p-25f), 0);
  EXPECT_EQ(FloatToF16(3 * 0x1p-25f), 2);
}

}  // namespace
}  // namespace farspan
