// SPDX-License-Identifier: Apache-2.0
#include "engine/model/tile_weights.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "engine/base/check.h"
#include "engine/kernels/weight_panels.h"
#include "engine/kernels/weight_tiles.h"
#include "engine/model/dequantize.h"

namespace farspan {
namespace {

using kernels::PanelTraits;
using kernels::TilePlace;
using kernels::TileTraits;
using kernels::WeightType;

constexpr int64_t kChunk = 32;
constexpr int64_t kChunksPerSuperblock = 8;

// 32 values of a row as their block has them: half floats as bits.
struct Chunk {
  std::array<int, kChunk> levels;
  std::array<uint16_t, 2> scales;  // of each group of columns
  uint16_t min = 0;
};

uint32_t Byte(const std::byte* from) { return std::to_integer<uint32_t>(*from); }

template <typename T>
T Load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

// `levels` in the low nibbles of 16 bytes, then in the high ones; bit i of `fifth` above value i.
void ReadNibbles(const std::byte* bytes, uint32_t fifth, Chunk* chunk) {
  for (size_t i = 0; i < 16; ++i) {
    chunk->levels[i] = static_cast<int>((Byte(bytes + i) & 15) | (fifth >> i & 1) << 4);
    chunk->levels[i + 16] = static_cast<int>(Byte(bytes + i) >> 4 | (fifth >> (i + 16) & 1) << 4);
  }
}

Chunk ReadBlock(GgufTensorType type, const std::byte* block) {
  Chunk chunk = {};
  chunk.scales[0] = Load<uint16_t>(block);
  switch (type) {
    case GgufTensorType::kQ4_0:
      ReadNibbles(block + 2, 0, &chunk);
      break;
    case GgufTensorType::kQ4_1:
      chunk.min = Load<uint16_t>(block + 2);
      ReadNibbles(block + 4, 0, &chunk);
      break;
    case GgufTensorType::kQ5_0:
      ReadNibbles(block + 6, Load<uint32_t>(block + 2), &chunk);
      break;
    case GgufTensorType::kQ5_1:
      chunk.min = Load<uint16_t>(block + 2);
      ReadNibbles(block + 8, Load<uint32_t>(block + 4), &chunk);
      break;
    default:
      for (size_t i = 0; i < kChunk; ++i) chunk.levels[i] = Load<int8_t>(block + 2 + i);
  }
  return chunk;
}

// Groups of a superblock of Q4_K and Q5_K, see dequantize.cc.
Chunk ReadScaledGroup(GgufTensorType type, const std::byte* block, int64_t group) {
  const std::byte* packed = block + 4;
  uint32_t scale, min;
  if (group < 4) {
    scale = Byte(packed + group) & 63;
    min = Byte(packed + group + 4) & 63;
  } else {
    scale = (Byte(packed + group + 4) & 15) | Byte(packed + group - 4) >> 6 << 4;
    min = Byte(packed + group + 4) >> 4 | Byte(packed + group) >> 6 << 4;
  }
  const bool five_bits = type == GgufTensorType::kQ5_K;
  const std::byte* nibbles = block + (five_bits ? 48 : 16) + group / 2 * 32;
  Chunk chunk = {};
  for (int64_t i = 0; i < kChunk; ++i) {
    uint32_t level = Byte(nibbles + i) >> (group % 2 * 4) & 15;
    if (five_bits) level |= (Byte(block + 16 + i) >> group & 1) << 4;
    chunk.levels[static_cast<size_t>(i)] = static_cast<int>(level);
  }
  chunk.scales[0] = FloatToF16(F16ToFloat(Load<uint16_t>(block)) * static_cast<float>(scale));
  chunk.min = FloatToF16(-F16ToFloat(Load<uint16_t>(block + 2)) * static_cast<float>(min));
  return chunk;
}

Chunk ReadQ6_K(const std::byte* block, int64_t group) {
  const int64_t half = group / 4, run = group % 4;
  const std::byte* low = block + half * 64 + run % 2 * 32;
  const std::byte* high = block + 128 + half * 32;
  Chunk chunk = {};
  for (int64_t i = 0; i < kChunk; ++i) {
    const uint32_t nibble = Byte(low + i) >> (run / 2 * 4) & 15;
    chunk.levels[static_cast<size_t>(i)] = static_cast<int>(nibble | (Byte(high + i) >> (2 * run) & 3) << 4);
  }
  const float scale = F16ToFloat(Load<uint16_t>(block + 208));
  for (int64_t i = 0; i < 2; ++i) {
    const auto part = static_cast<float>(Load<int8_t>(block + 192 + half * 8 + 2 * run + i));
    chunk.scales[static_cast<size_t>(i)] = FloatToF16(scale * part);
  }
  return chunk;
}

Chunk ReadChunk(GgufTensorType type, const std::byte* row, int64_t index) {
  const int64_t block_bytes = TraitsOf(type).block_bytes;
  if (TraitsOf(type).block_values == kChunk) return ReadBlock(type, row + index * block_bytes);
  const std::byte* block = row + index / kChunksPerSuperblock * block_bytes;
  const int64_t group = index % kChunksPerSuperblock;
  return type == GgufTensorType::kQ6_K ? ReadQ6_K(block, group) : ReadScaledGroup(type, block, group);
}

bool IsFinite(uint16_t half) { return (half & 0x7c00) != 0x7c00; }

bool PutChunk(const TileTraits& traits, const Chunk& chunk, int row, int64_t index, std::byte* tile_bytes) {
  auto* tile = reinterpret_cast<uint8_t*>(tile_bytes);
  const int first = static_cast<int>(index % 2 * kChunk);
  bool finite = IsFinite(chunk.min);
  for (int i = 0; i < static_cast<int>(kChunk); ++i) {
    const TilePlace place = TilePlace::At(traits, row, first + i);
    SetTileLevel(traits, tile, place, chunk.levels[static_cast<size_t>(i)]);
    if (i % traits.group_columns != 0) continue;
    const uint16_t scale = chunk.scales[static_cast<size_t>(place.group)];
    uint8_t* at = tile + traits.scales_at() + place.scale_index(traits) * (traits.has_min ? 4 : 2);
    std::memcpy(at, &scale, sizeof(scale));
    if (traits.has_min) std::memcpy(at + 2, &chunk.min, sizeof(chunk.min));
    finite = finite && IsFinite(scale);
  }
  return finite;
}

// A chunk is a row of a panel. `offset` is taken from each level.
bool PutPanelRow(const PanelTraits& traits, const Chunk& chunk, int offset, int row, std::byte* panel_bytes) {
  auto* panel = reinterpret_cast<uint8_t*>(panel_bytes);
  if (traits.bits == 8) {
    for (int i = 0; i < static_cast<int>(kChunk); ++i) {
      panel[kernels::PanelByte(traits, row, i)] = static_cast<uint8_t>(chunk.levels[static_cast<size_t>(i)] - offset);
    }
  } else {
    for (int first = 0; first < static_cast<int>(kChunk); first += 8) {
      uint32_t word = 0;
      for (int i = 0; i < 8; ++i) {
        const auto level = static_cast<uint32_t>(chunk.levels[static_cast<size_t>(first + i)]);
        word |= level << 4 * (i / 2 + 4 * (i % 2));
      }
      std::memcpy(panel + kernels::PanelByte(traits, row, first), &word, sizeof(word));
    }
  }
  std::memcpy(panel + 2 * row, chunk.scales.data(), sizeof(uint16_t));
  if (traits.has_min) std::memcpy(panel + 2 * (kernels::kPanelRows + row), &chunk.min, sizeof(chunk.min));
  return IsFinite(chunk.scales[0]) && IsFinite(chunk.min);
}

}  // namespace

std::optional<WeightType> TiledType(GgufTensorType type, int64_t rows, int64_t columns) {
  if (rows % kernels::kTileRows != 0 || columns % kernels::kTileColumns != 0) return std::nullopt;
  switch (type) {
    case GgufTensorType::kQ4_0:
      return WeightType::kTiled4;
    case GgufTensorType::kQ4_1:
    case GgufTensorType::kQ4_K:
      return WeightType::kTiled4Min;
    case GgufTensorType::kQ5_0:
      return WeightType::kTiled5;
    case GgufTensorType::kQ5_1:
    case GgufTensorType::kQ5_K:
      return WeightType::kTiled5Min;
    case GgufTensorType::kQ6_K:
      return WeightType::kTiled6;
    case GgufTensorType::kQ8_0:
      return WeightType::kTiled8;
    default:
      return std::nullopt;
  }
}

std::optional<int64_t> PackTiles(GgufTensorType type, std::span<const std::byte> rows, int64_t num_rows,
                                 int64_t columns, std::span<std::byte> tiles) {
  const std::optional<WeightType> tiled = TiledType(type, num_rows, columns);
  FARSPAN_CHECK(tiled.has_value());
  const TileTraits traits = kernels::TraitsOfTiles(*tiled);
  const int64_t row_bytes = static_cast<int64_t>(rows.size()) / num_rows;
  FARSPAN_CHECK(static_cast<int64_t>(tiles.size()) == num_rows * kernels::WeightRowBytes(*tiled, columns));
  std::fill(tiles.begin(), tiles.end(), std::byte{0});
  std::optional<int64_t> first_refused;
  for (int64_t row = 0; row < num_rows; ++row) {
    for (int64_t index = 0; index < columns / kChunk; ++index) {
      const Chunk chunk = ReadChunk(type, rows.data() + row * row_bytes, index);
      std::byte* tile = tiles.data() + kernels::TileOffset(traits, columns, row, index * kChunk);
      const bool finite = PutChunk(traits, chunk, static_cast<int>(row % kernels::kTileRows), index, tile);
      if (!finite && !first_refused.has_value()) first_refused = row;
    }
  }
  return first_refused;
}

std::optional<WeightType> PanelType(GgufTensorType type, int64_t rows, int64_t columns) {
  if (rows % kernels::kPanelRows != 0 || columns % kernels::kPanelColumns != 0) return std::nullopt;
  switch (type) {
    case GgufTensorType::kQ4_0:
      return WeightType::kPanel4;
    case GgufTensorType::kQ4_1:
    case GgufTensorType::kQ4_K:
      return WeightType::kPanel4Min;
    case GgufTensorType::kQ5_0:
    case GgufTensorType::kQ8_0:
      return WeightType::kPanel8;
    default:
      return std::nullopt;
  }
}

bool PackPanels(GgufTensorType type, std::span<const std::byte> rows, int64_t num_rows, int64_t columns,
                std::span<std::byte> panels) {
  const std::optional<WeightType> panel = PanelType(type, num_rows, columns);
  FARSPAN_CHECK(panel.has_value());
  FARSPAN_CHECK(static_cast<int64_t>(panels.size()) == num_rows * kernels::WeightRowBytes(*panel, columns));
  const PanelTraits traits = kernels::TraitsOfPanels(*panel);
  const int64_t row_bytes = static_cast<int64_t>(rows.size()) / num_rows;
  const int offset = type == GgufTensorType::kQ5_0 ? 16 : 0;
  bool finite = true;
  for (int64_t row = 0; row < num_rows; ++row) {
    for (int64_t index = 0; index < columns / kChunk; ++index) {
      const Chunk chunk = ReadChunk(type, rows.data() + row * row_bytes, index);
      std::byte* at = panels.data() + kernels::PanelOffset(traits, columns, row, index * kChunk);
      finite = PutPanelRow(traits, chunk, offset, static_cast<int>(row % kernels::kPanelRows), at) && finite;
    }
  }
  return finite;
}

}  // namespace farspan
