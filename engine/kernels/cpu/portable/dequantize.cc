// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstring>

#include "engine/kernels/cpu/number_formats.h"
#include "engine/kernels/cpu/portable/kernels.h"
#include "engine/kernels/weight_panels.h"
#include "engine/kernels/weight_tiles.h"

namespace farspan::kernels::portable {
namespace {

void DequantizeQ40(const uint8_t* row, int64_t columns, float* out) {
  for (int64_t block = 0; block < columns / kQuantBlock; ++block) {
    const uint8_t* bytes = row + block * kQ40BlockBytes;
    const float scale = LoadHalf(bytes);
    for (int64_t i = 0; i < kQuantBlock / 2; ++i) {
      const int low = bytes[2 + i] & 0x0f, high = bytes[2 + i] >> 4;
      out[block * kQuantBlock + i] = scale * static_cast<float>(low - 8);
      out[block * kQuantBlock + kQuantBlock / 2 + i] = scale * static_cast<float>(high - 8);
    }
  }
}

void DequantizeQ41(const uint8_t* row, int64_t columns, float* out) {
  for (int64_t block = 0; block < columns / kQuantBlock; ++block) {
    const uint8_t* bytes = row + block * kQ41BlockBytes;
    const float scale = LoadHalf(bytes), min = LoadHalf(bytes + 2);
    for (int64_t i = 0; i < kQuantBlock / 2; ++i) {
      const int low = bytes[4 + i] & 0x0f, high = bytes[4 + i] >> 4;
      out[block * kQuantBlock + i] = scale * static_cast<float>(low) + min;
      out[block * kQuantBlock + kQuantBlock / 2 + i] = scale * static_cast<float>(high) + min;
    }
  }
}

void DequantizeQ80(const uint8_t* row, int64_t columns, float* out) {
  for (int64_t block = 0; block < columns / kQuantBlock; ++block) {
    const uint8_t* bytes = row + block * kQ80BlockBytes;
    const float scale = LoadHalf(bytes);
    for (int64_t i = 0; i < kQuantBlock; ++i) {
      out[block * kQuantBlock + i] = scale * static_cast<float>(static_cast<int8_t>(bytes[2 + i]));
    }
  }
}

void WidenBf16(const uint8_t* row, int64_t columns, float* out) {
  for (int64_t i = 0; i < columns; ++i) {
    uint16_t value;
    std::memcpy(&value, row + 2 * i, sizeof(value));
    out[i] = Bf16ToFloat(value);
  }
}

void DequantizeTiles(const WeightView& weight, int64_t row, float* out) {
  const TileTraits traits = TraitsOfTiles(weight.type);
  for (int64_t column = 0; column < weight.columns; ++column) {
    const uint8_t* tile = static_cast<const uint8_t*>(weight.data) + TileOffset(traits, weight.columns, row, column);
    const TilePlace place =
        TilePlace::At(traits, static_cast<int>(row % kTileRows), static_cast<int>(column % kTileColumns));
    const auto level = static_cast<float>(TileLevel(traits, tile, place) - traits.offset);
    const uint8_t* scale = tile + traits.scales_at() + place.scale_index(traits) * (traits.has_min ? 4 : 2);
    out[column] = traits.has_min ? LoadHalf(scale) * level + LoadHalf(scale + 2) : LoadHalf(scale) * level;
  }
}

void DequantizePanels(const WeightView& weight, int64_t row, float* out) {
  const PanelTraits traits = TraitsOfPanels(weight.type);
  const int panel_row = static_cast<int>(row % kPanelRows);
  for (int64_t column = 0; column < weight.columns; ++column) {
    const uint8_t* panel = static_cast<const uint8_t*>(weight.data) + PanelOffset(traits, weight.columns, row, column);
    const int level = PanelLevel(traits, panel, panel_row, static_cast<int>(column % kPanelColumns));
    const float scale = LoadHalf(panel + 2 * panel_row);
    const float value = scale * static_cast<float>(level - traits.offset);
    out[column] = traits.has_min ? value + LoadHalf(panel + 32 + 2 * panel_row) : value;
  }
}

}  // namespace

void DequantizeRow(const WeightView& weight, int64_t row, float* out) {
  if (IsPanel(weight.type)) return DequantizePanels(weight, row, out);
  if (IsTiled(weight.type)) return DequantizeTiles(weight, row, out);
  const uint8_t* bytes = static_cast<const uint8_t*>(weight.data) + row * WeightRowBytes(weight.type, weight.columns);
  switch (weight.type) {
    case WeightType::kF32:
      std::memcpy(out, bytes, static_cast<size_t>(weight.columns) * sizeof(float));
      return;
    case WeightType::kBf16:
      return WidenBf16(bytes, weight.columns, out);
    case WeightType::kQ4_0:
      return DequantizeQ40(bytes, weight.columns, out);
    case WeightType::kQ4_1:
      return DequantizeQ41(bytes, weight.columns, out);
    case WeightType::kQ8_0:
      return DequantizeQ80(bytes, weight.columns, out);
    default:
      return;
  }
}

}  // namespace farspan::kernels::portable
