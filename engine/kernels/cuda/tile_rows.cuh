// SPDX-License-Identifier: Apache-2.0
// Rows of x in shared memory as the products of tiles want them: bf16 scaled by powers of two, zeros after the last
// column, and the sums of each group of columns that share a scale.
#pragma once

#include "engine/kernels/cuda/tile_levels.cuh"

namespace farspan::kernels::cuda {

inline constexpr int kTileWarpBits = 4;
inline constexpr int kTileWarps = 1 << kTileWarpBits;
inline constexpr int kTileThreads = kTileWarps * kWarpThreads;
inline constexpr int kStepTiles = 4;
inline constexpr int kStepColumns = kStepTiles * static_cast<int>(kTileColumns);
// Of eight rows, that fit into shared memory.
inline constexpr int kPartColumns = 4096;
// Lanes without a row or out of turn read zeros here, at offsets of a step's columns. Rows lie 64 bytes past a multiple
// of 128, which keeps neighbours' banks apart; so do the zeros.
inline constexpr int kZeroBytes = kStepColumns * 2 + 128;

// Of small numbers by what `inverse` is the inverse of.
__device__ inline int Quotient(int number, uint32_t inverse) {
  return inverse == 0 ? number : static_cast<int>(__umulhi(static_cast<uint32_t>(number), inverse));
}

struct TileRowsPlace {
  uint8_t* x;   // [row], x_stride_bytes apart
  float* sums;  // [group][row of kRows], scaled as sums of products are
  float (*squares)[kMaxSegments];
};

// Eight columns as bits of bf16, scaled.
template <WeightType kType>
__device__ uint4 ScaleVector(const uint4& bf16) {
  constexpr float kOdd = TileLevels<kType>::kRaisesOddPairs ? kRowScale / 16 : kRowScale;
  const auto scaled = [](uint32_t pair, float scale) {
    const __nv_bfloat162 product =
        __hmul2(*reinterpret_cast<const __nv_bfloat162*>(&pair), __floats2bfloat162_rn(scale, scale));
    return *reinterpret_cast<const uint32_t*>(&product);
  };
  return {scaled(bf16.x, kRowScale), scaled(bf16.y, kOdd), scaled(bf16.z, kRowScale), scaled(bf16.w, kOdd)};
}

// The sum of eight scaled columns, as large as products of a level of one.
template <WeightType kType>
__device__ float SumVector(const uint4& scaled) {
  constexpr float kOdd = TileLevels<kType>::kRaisesOddPairs ? 16 : 1;
  const auto sum = [](uint32_t pair) { return __uint_as_float(pair << 16) + __uint_as_float(pair & 0xffff0000u); };
  return (sum(scaled.x) + kOdd * sum(scaled.y) + (sum(scaled.z) + kOdd * sum(scaled.w))) * 0x1p-66f * 0x1p-67f;
}

// Little code: it runs once a launch, when its instructions are fetched from far. Vectors come first as they are, all
// at once, then each thread scales its own.
template <WeightType kType, int kRows>
__device__ void ScaleVectors(const StreamParams& params, const TileRowsPlace& to) {
  constexpr int kGroupLanes = TraitsOfTiles(kType).group_columns / 8;
  constexpr float kFactor = TraitsOfTiles(kType).has_min ? 1 : -TileLevels<kType>::kOffset;
  const int vectors = params.staged_columns / 8, all = params.num_rows * vectors;
#pragma unroll 1
  for (int at = static_cast<int>(threadIdx.x); at < all; at += kTileThreads) {
    const int row = Quotient(at, params.per_staged_row), vector = at - row * vectors;
    auto* const place = reinterpret_cast<uint4*>(to.x + row * params.x_stride_bytes + vector * kVectorBytes);
    const uint4 scaled = ScaleVector<kType>(*place);
    *place = scaled;
    float sum = SumVector<kType>(scaled);
#pragma unroll
    for (int offset = 1; offset < kGroupLanes; offset *= 2) sum += __shfl_xor_sync(kWholeWarp, sum, offset);
    if (Lane() % kGroupLanes == 0) to.sums[vector / kGroupLanes * kRows + row] = sum * kFactor;
  }
}

// Of float32 rows that are weighted here; a warp has a segment of them.
__device__ inline uint4 WeightVector(const HiddenVector& hidden, float* squares) {
  const float4 a = hidden.x[0], b = hidden.x[1], c = hidden.weight[0], d = hidden.weight[1];
  const float sum =
      WarpSum(a.x * a.x + a.y * a.y + a.z * a.z + a.w * a.w + (b.x * b.x + b.y * b.y + b.z * b.z + b.w * b.w));
  if (Lane() == 0) *squares = sum;
  return {PackBf16(a.x * c.x, a.y * c.y), PackBf16(a.z * c.z, a.w * c.w), PackBf16(b.x * d.x, b.y * d.y),
          PackBf16(b.z * d.z, b.w * d.w)};
}

template <int kRows>
__device__ void WeightRows(const StreamParams& params, int first, const TileRowsPlace& to) {
  constexpr int kAtOnce = kRows == 1 ? 1 : 2;
  const int vectors = params.staged_columns / 8, all = params.num_rows * vectors;
#pragma unroll 1
  for (int begin = static_cast<int>(threadIdx.x); begin < all; begin += kAtOnce * kTileThreads) {
    HiddenVector hidden[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int at = begin + i * kTileThreads, row = Quotient(at, params.per_staged_row);
      if (at < all) hidden[i] = LoadHidden(params, {.row = row, .column = first + (at - row * vectors) * 8});
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int at = begin + i * kTileThreads, row = Quotient(at, params.per_staged_row), vector = at - row * vectors;
      if (at >= all) break;
      *reinterpret_cast<uint4*>(to.x + row * params.x_stride_bytes + vector * kVectorBytes) =
          WeightVector(hidden[i], &to.squares[row][(first + vector * 8) / kSegmentColumns]);
    }
  }
}

template <int kRows>
__device__ void CopyRows(const StreamParams& params, int first, const TileRowsPlace& to) {
  constexpr int kAtOnce = kRows == 1 ? 4 : 8;
  const int vectors = params.staged_columns / 8, all = params.num_rows * vectors;
#pragma unroll 1
  for (int begin = static_cast<int>(threadIdx.x); begin < all; begin += kAtOnce * kTileThreads) {
    uint4 bf16[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int at = begin + i * kTileThreads, row = Quotient(at, params.per_staged_row);
      const int column = first + (at - row * vectors) * 8;
      bf16[i] = {};
      if (at >= all || column >= params.columns) continue;
      const auto* x = static_cast<const uint16_t*>(params.x) + static_cast<int64_t>(row) * params.columns + column;
      bf16[i] = *reinterpret_cast<const uint4*>(x);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int at = begin + i * kTileThreads, row = Quotient(at, params.per_staged_row);
      if (at >= all) break;
      *reinterpret_cast<uint4*>(to.x + row * params.x_stride_bytes + (at - row * vectors) * kVectorBytes) = bf16[i];
    }
  }
}

// The columns from `first` on, as many as a row in shared memory has; zeros after the last.
template <WeightType kType, int kRows>
__device__ void StageTileRows(const StreamParams& params, int first, const TileRowsPlace& to) {
  if (params.norm_weight != nullptr) {
    WeightRows<kRows>(params, first, to);
  } else {
    CopyRows<kRows>(params, first, to);
  }
  ScaleVectors<kType, kRows>(params, to);
}

}  // namespace farspan::kernels::cuda
