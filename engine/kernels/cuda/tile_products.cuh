// SPDX-License-Identifier: Apache-2.0
// Products of one step, four tiles of 16 weight rows by 64 columns, with up to 8 rows of x, on tensor cores.
//
// A product has eight columns for rows of x. Where there are fewer rows, a row takes several columns, one for each of
// as many groups of weight columns: it is zero in all but the group's own, so that the sums of up to eight groups, each
// with a scale of its own, come to stand side by side and are scaled at once. Sums of group j go to the j mod 8th of
// eight sums, whichever lane holds it, so that a row's result has the same bits however many rows there are.
#pragma once

#include "engine/kernels/cuda/tile_rows.cuh"

namespace farspan::kernels::cuda {

// kRows of x (1, 2, 4 or 8) share the columns of a product.
template <WeightType kTypeOf, int kRowsOf>
struct TileShape {
  static constexpr WeightType kType = kTypeOf;
  static constexpr int kRows = kRowsOf;
  using Levels = TileLevels<kType>;
  static constexpr TileTraits kTraits = Levels::kTraits;
  static constexpr int kTileBytes = kTraits.tile_bytes();
  static constexpr int kStageBytes = kStepTiles * kTileBytes;
  // As deep a ring as leaves room for a part of the rows.
  static constexpr int kStages = kStageBytes > 4096 ? (kRows == 8 ? 1 : 2) : kRows == 8 ? 2 : 8192 / kStageBytes;
  static constexpr int kTileGroups = static_cast<int>(kTileColumns) / kTraits.group_columns;
  static constexpr int kSetGroups = 8 / kRows;  // whose sums stand side by side
  static constexpr int kSets = kStepTiles * kTileGroups / kSetGroups;
  static constexpr int kScaleBytes = kTraits.has_min ? 4 : 2;
};

// Where a lane's operands are in shared memory.
template <typename T>
struct TileOperands {
  uint32_t row;  // of x, at the columns of the lane
  bool exists;   // else it reads zeros
  uint32_t sums;
  uint32_t zeros;
};

template <typename T>
__device__ TileOperands<T> OperandsOfLane(const StreamParams& params, uint32_t x, uint32_t sums, uint32_t zeros) {
  constexpr int kLaneBytes = 2 * T::kTraits.group_columns / 4;
  const int part = Lane() % 4, row = Lane() / 4 % T::kRows;
  return {.row = x + row * params.x_stride_bytes + part * kLaneBytes,
          .exists = row < params.num_rows,
          .sums = sums + part * 8,
          .zeros = zeros + part * kLaneBytes};
}

// Of a set of groups, for the lane's two weight rows: [row half][of its two columns].
struct TileScales {
  float scale[2][2];
  float min[2][2];
};

__device__ inline float2 UnpackHalves(uint32_t halves) {
  return __half22float2(*reinterpret_cast<const __half2*>(&halves));
}

template <typename T>
__device__ constexpr int ScaleOffset(int group) {
  const int in_tile = group % T::kTileGroups;
  return group / T::kTileGroups * T::kTileBytes + (in_tile / 2 * 32 + in_tile % 2) * T::kScaleBytes;
}

template <typename T>
__device__ TileScales LoadTileScales(uint32_t stage, int set) {
  const int lane_group = 2 * (Lane() % 4) / T::kRows;
  const uint32_t at = stage + T::kTraits.scales_at() + Lane() / 4 * 4 * T::kScaleBytes + ScaleOffset<T>(lane_group) +
                      ScaleOffset<T>(set * T::kSetGroups);
  TileScales scales = {};
  if constexpr (T::kRows == 1) {
    if constexpr (T::kTraits.has_min) {
      const uint4 words = LoadShared(at);
      const float2 pairs[4] = {UnpackHalves(words.x), UnpackHalves(words.y), UnpackHalves(words.z),
                               UnpackHalves(words.w)};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        scales.scale[i / 2][i % 2] = pairs[i].x;
        scales.min[i / 2][i % 2] = pairs[i].y;
      }
    } else {
      const uint2 words = LoadShared8(at);
      const float2 upper = UnpackHalves(words.x), lower = UnpackHalves(words.y);
      scales = {{{upper.x, upper.y}, {lower.x, lower.y}}, {}};
    }
  } else {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float2 pair = {};
      if constexpr (T::kTraits.has_min) {
        pair = UnpackHalves(LoadShared4(at + half * 2 * T::kScaleBytes));
      } else {
        pair.x = __half2float(__ushort_as_half(LoadShared2(at + half * 2 * T::kScaleBytes)));
      }
      scales.scale[half][0] = scales.scale[half][1] = pair.x;
      scales.min[half][0] = scales.min[half][1] = pair.y;
    }
  }
  return scales;
}

// One group's products: 32 columns are two of them, 16 one.
template <typename T>
__device__ void MultiplyGroup(const typename T::Levels& levels, int group, uint32_t x, float (&even)[4],
                              float (&odd)[4]) {
  if constexpr (T::kTileGroups == 2) {
    const uint4 row = LoadShared(x);
    MultiplyAdd(even, levels.Pair(group, 0, 0), levels.Pair(group, 1, 0), levels.Pair(group, 0, 1),
                levels.Pair(group, 1, 1), row.x, row.y);
    MultiplyAdd(odd, levels.Pair(group, 0, 2), levels.Pair(group, 1, 2), levels.Pair(group, 0, 3),
                levels.Pair(group, 1, 3), row.z, row.w);
  } else {
    const uint2 row = LoadShared8(x);
    const int chunk = group / 2, pair = group % 2 * 2;
    MultiplyAdd(group % 2 == 0 ? even : odd, levels.Pair(chunk, 0, pair), levels.Pair(chunk, 1, pair),
                levels.Pair(chunk, 0, pair + 1), levels.Pair(chunk, 1, pair + 1), row.x, row.y);
  }
}

// The eight sums of a step, added in pairs of neighbours whatever lane they are in.
template <typename T>
__device__ void AddInPairs(const float (&scaled)[T::kRows][4], float (&sum)[4]) {
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if (T::kRows == 1 && j % 2 == 1) continue;
    float parts[T::kRows];
#pragma unroll
    for (int q = 0; q < T::kRows; ++q) {
      float part = scaled[q][j];
      if constexpr (T::kRows == 1) part += scaled[q][j + 1];
      if constexpr (T::kRows <= 2) part += __shfl_xor_sync(kWholeWarp, part, 1);
      if constexpr (T::kRows <= 4) part += __shfl_xor_sync(kWholeWarp, part, 2);
      parts[q] = part;
    }
#pragma unroll
    for (int width = 1; width < T::kRows; width *= 2) {
#pragma unroll
      for (int q = 0; q < T::kRows; q += 2 * width) parts[q] += parts[q + width];
    }
    sum[j] += parts[0];
  }
}

// Adds the products of one step: sum[row half * 2 + which of the lane's columns]; with one row
// all columns hold its sum. Every lane calls it. `column` is counted from the first in shared memory.
template <typename T>
__device__ void MultiplyStep(const TileOperands<T>& operands, uint32_t stage, int column, float (&sum)[4]) {
  constexpr int kGroupBytes = 2 * T::kTraits.group_columns;
  const uint32_t x = operands.row + column * 2;
  const uint32_t x_sums = operands.sums + column / T::kTraits.group_columns * T::kRows * 4;
  typename T::Levels levels;
  float scaled[T::kRows][4] = {};
#pragma unroll
  for (int set = 0; set < T::kSets; ++set) {
    float even[4] = {}, odd[4] = {};
#pragma unroll
    for (int group = set * T::kSetGroups; group < (set + 1) * T::kSetGroups; ++group) {
      if (group % T::kTileGroups == 0) levels.Load(stage + group / T::kTileGroups * T::kTileBytes);
      const bool own_turn = operands.exists && Lane() / 4 / T::kRows == group % T::kSetGroups;
      MultiplyGroup<T>(levels, group % T::kTileGroups, (own_turn ? x : operands.zeros) + group * kGroupBytes, even,
                       odd);
    }
    const TileScales scales = LoadTileScales<T>(stage, set);
    const uint2 bits = LoadShared8(x_sums + set * 32);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      float& to = scaled[set % T::kRows][j];
      const float x_sum = __uint_as_float(j % 2 == 0 ? bits.x : bits.y);
      if constexpr (T::kTraits.has_min) {
        to = fmaf(scales.scale[j / 2][j % 2], even[j] + odd[j], to);
        to = fmaf(scales.min[j / 2][j % 2], x_sum, to);
      } else {
        to = fmaf(scales.scale[j / 2][j % 2], even[j] + odd[j] + x_sum, to);
      }
    }
  }
  AddInPairs<T>(scaled, sum);
}

}  // namespace farspan::kernels::cuda
