// SPDX-License-Identifier: Apache-2.0
// Quantised weights as tensor cores want them: tiles of 16 rows by 64 columns, of equal size, one behind the other
// along 16 rows, then down. Each value keeps the integer that its block had, so nothing is rounded again but the scales
// of 256-value blocks, products of two numbers, which become half floats.
//
// A tile is what 32 lanes take at a time; lane 4g + t of row g and g + 8, in each of the two chunks of 32 columns, has
// columns 8t to 8t + 7, or, where 16 columns share a scale, 4t to 4t + 3 of both halves of the chunk. It holds
//   the low four bits: 16 bytes a lane, a word for each (chunk, row); value j in nibble j / 2 + 4 (j % 2),
//   or all eight:      the same for each chunk, two words a row; value j in byte j / 2 % 2 + 2 (j % 2) of word j / 4,
//   the fifth bit:     4 bytes a lane; value j of word w in bit 4 w + j / 2 + 16 (j % 2),
//   or the next two:   8 bytes a lane, a word a chunk; value j of row r in bits 2 (4 r + j / 2) + 16 (j % 2) and above,
//   the scales:        half floats, or pairs of scale and minimum: [row of eight][half of the rows][chunk], or, where
//   16
//                      columns share one, [chunk][row of eight][half of the rows][half of the chunk].
// Rows are a multiple of 16, columns of 64.
#pragma once

#include <cstdint>

#include "engine/kernels/args.h"

namespace farspan::kernels {

struct TileTraits {
  int low_bits = 0;   // 4 or 8
  int high_bits = 0;  // above them: 0 to 2
  bool has_min = false;
  int group_columns = 32;  // that share a scale
  int offset = 0;          // w = scale * (level - offset), or scale * level + min; eight bits are two's complement

  constexpr int groups() const { return 32 / group_columns; }  // a chunk
  constexpr int high_at() const { return low_bits * 128; }
  constexpr int scales_at() const { return high_at() + high_bits * 128; }
  constexpr int tile_bytes() const { return scales_at() + 2 * groups() * (has_min ? 2 : 1) * 32; }
};

inline constexpr int64_t kTileRows = 16;
inline constexpr int64_t kTileColumns = 64;

constexpr bool IsTiled(WeightType type) {
  return type == WeightType::kTiled4 || type == WeightType::kTiled4Min || type == WeightType::kTiled5 ||
         type == WeightType::kTiled5Min || type == WeightType::kTiled6 || type == WeightType::kTiled8;
}

constexpr TileTraits TraitsOfTiles(WeightType type) {
  switch (type) {
    case WeightType::kTiled4:
      return {.low_bits = 4, .offset = 8};
    case WeightType::kTiled4Min:
      return {.low_bits = 4, .has_min = true};
    case WeightType::kTiled5:
      return {.low_bits = 4, .high_bits = 1, .offset = 16};
    case WeightType::kTiled5Min:
      return {.low_bits = 4, .high_bits = 1, .has_min = true};
    case WeightType::kTiled6:
      return {.low_bits = 4, .high_bits = 2, .group_columns = 16, .offset = 32};
    case WeightType::kTiled8:
      return {.low_bits = 8};
    default:
      return {};
  }
}

// The tiles of the same values as blocks of kQ4_0 or kQ8_0; the blocks' own type where tiles do not cover their shape.
constexpr WeightType TilesOf(const WeightView& blocks) {
  if (blocks.rows % kTileRows != 0 || blocks.columns % kTileColumns != 0) return blocks.type;
  if (blocks.type == WeightType::kQ4_0) return WeightType::kTiled4;
  return blocks.type == WeightType::kQ8_0 ? WeightType::kTiled8 : blocks.type;
}

// Where a value of a tile is.
struct TilePlace {
  int chunk;  // of 32 columns
  int half;   // 0: the first eight rows
  int lane;
  int value;  // of the lane's eight in that chunk and row
  int row;
  int group;

  static constexpr TilePlace At(const TileTraits& traits, int row, int column) {
    const int k = column % 32, part = traits.group_columns == 16 ? k % 16 : k;
    const int lane_values = traits.group_columns == 16 ? 4 : 8;
    return {.chunk = column / 32,
            .half = row / 8,
            .lane = row % 8 * 4 + part / lane_values,
            .value = (traits.group_columns == 16 ? k / 16 * 4 : 0) + part % lane_values,
            .row = row,
            .group = k / traits.group_columns};
  }

  constexpr int pair() const { return value / 2; }
  constexpr int odd() const { return value % 2; }
  constexpr int low_byte(const TileTraits& traits) const {
    return traits.low_bits == 8 ? chunk * 512 + lane * 16 + (half * 2 + value / 4) * 4 + pair() % 2 + 2 * odd()
                                : lane * 16 + (chunk * 2 + half) * 4 + pair() / 2 + 2 * odd();
  }
  constexpr int low_shift(const TileTraits& traits) const { return traits.low_bits == 8 ? 0 : pair() % 2 * 4; }
  constexpr int high_bit(const TileTraits& traits) const {
    return traits.high_bits == 1 ? lane * 32 + (chunk * 2 + half) * 4 + pair() + 16 * odd()
                                 : lane * 64 + chunk * 32 + 2 * (half * 4 + pair()) + 16 * odd();
  }
  // Index of a half float, or of a pair.
  constexpr int scale_index(const TileTraits& traits) const {
    const int of_row = traits.groups() == 1 ? chunk : group, eighth = traits.groups() == 1 ? 0 : chunk;
    return (eighth * 8 + row % 8) * 4 + half * 2 + of_row;
  }
};

// The level of a value, as its block had it.
constexpr int TileLevel(const TileTraits& traits, const uint8_t* tile, const TilePlace& place) {
  const int low = tile[place.low_byte(traits)];
  if (traits.low_bits == 8) return low < 128 ? low : low - 256;
  int level = low >> place.low_shift(traits) & 15;
  if (traits.high_bits > 0) {
    const int bit = place.high_bit(traits);
    level |= (tile[traits.high_at() + bit / 8] >> bit % 8 & ((1 << traits.high_bits) - 1)) << 4;
  }
  return level;
}

// Puts a level into a tile of zeros.
constexpr void SetTileLevel(const TileTraits& traits, uint8_t* tile, const TilePlace& place, int level) {
  uint8_t& low = tile[place.low_byte(traits)];
  if (traits.low_bits == 8) {
    low = static_cast<uint8_t>(level);
    return;
  }
  low = static_cast<uint8_t>(low | (level & 15) << place.low_shift(traits));
  if (traits.high_bits == 0) return;
  const int bit = place.high_bit(traits);
  uint8_t& high = tile[traits.high_at() + bit / 8];
  high = static_cast<uint8_t>(high | level >> 4 << bit % 8);
}

// Puts a block of kQ4_0 or kQ8_0, `traits` being those of kTiled4 or kTiled8, at its place in a tile: whole words, so
// that blocks may be put by different threads.
constexpr void PutBlock(const TileTraits& traits, const uint8_t* block, int row, int chunk, uint8_t* tile) {
  for (int lane_part = 0; lane_part < 4; ++lane_part) {
    const int words = traits.low_bits == 8 ? 2 : 1;
    uint8_t bytes[8] = {};
    int at = 0;
    for (int i = 0; i < 8; ++i) {
      const int k = lane_part * 8 + i;
      const TilePlace place = TilePlace::At(traits, row, chunk * 32 + k);
      if (i == 0) at = place.low_byte(traits);
      const int index = place.low_byte(traits) - at;
      if (traits.low_bits == 8) {
        bytes[index] = block[2 + k];
      } else {
        const int level = k < 16 ? block[2 + k] & 15 : block[2 + k - 16] >> 4;
        bytes[index] = static_cast<uint8_t>(bytes[index] | level << place.low_shift(traits));
      }
    }
    for (int i = 0; i < words * 4; ++i) tile[at + i] = bytes[i];
  }
  const TilePlace first = TilePlace::At(traits, row, chunk * 32);
  uint8_t* scale = tile + traits.scales_at() + first.scale_index(traits) * 2;
  scale[0] = block[0];
  scale[1] = block[1];
}

// The tile of a value of a matrix.
constexpr int64_t TileOffset(const TileTraits& traits, int64_t columns, int64_t row, int64_t column) {
  return (row / kTileRows * (columns / kTileColumns) + column / kTileColumns) * traits.tile_bytes();
}

}  // namespace farspan::kernels
