// SPDX-License-Identifier: Apache-2.0
// Tiles of quantised weights as a format of the streaming kernel. Levels become bf16, which holds them exactly; a
// group's products are summed before its scale is applied, in float32: nothing is rounded that the block did not round.
#pragma once

#include "engine/kernels/cuda/stream_kernel.cuh"
#include "engine/kernels/weight_tiles.h"

namespace farspan::kernels::cuda {

// Sixteen levels of a lane in one chunk as products want them: [row][pair] of bf16.
struct LevelPairs {
  uint32_t pairs[2][4];
};

// 128 + level by placing the level's bits into a bf16's mantissa, less `minus`.
__device__ inline uint32_t SubtractBf16(uint32_t value, uint32_t minus) {
  const __nv_bfloat162 one = __floats2bfloat162_rn(1.0f, 1.0f);
  const __nv_bfloat162 difference =
      __hfma2(one, *reinterpret_cast<const __nv_bfloat162*>(&value), *reinterpret_cast<const __nv_bfloat162*>(&minus));
  return *reinterpret_cast<const uint32_t*>(&difference);
}

// (value & mask) | bits in one instruction, which the compiler does not find where both are constants.
__device__ inline uint32_t MaskAndSet(uint32_t value, uint32_t mask, uint32_t bits) {
  uint32_t result;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(result) : "r"(value), "r"(mask), "r"(bits));
  return result;
}

__device__ constexpr uint32_t ShiftTo(uint32_t bits, int from, int to) {
  return from >= to ? bits >> (from - to) : bits << (to - from);
}

template <WeightType kType>
struct TiledWeights {
  static constexpr TileTraits kTraits = TraitsOfTiles(kType);
  static constexpr int kStepColumns = kTileColumns, kWarpColumns = kTileColumns;
  static constexpr int kStageBytes = kTraits.tile_bytes();
  static constexpr int kMostBatchSteps = 4;
  static constexpr bool kSharesStages = true, kGatesByTiles = true;
  static constexpr bool kColumnsInHalves = kTraits.group_columns == 16, kNeedsXSums = kTraits.has_min;

  __device__ static int NextColumn(int column) { return column + NumWarps() * kWarpColumns; }

  class Place {
   public:
    __device__ void Seek(const StreamParams& params, int tile) {
      exists_ = tile < params.num_tiles;
      tiles_ = exists_ ? Begin(params, tile) : params.weights[0];
    }

    __device__ void Ask(const StreamParams&, uint32_t shared, int column) const {
      const uint8_t* from = tiles_ + static_cast<uint32_t>(column) / kTileColumns * kStageBytes;
#pragma unroll
      for (int i = 0; i < kStageBytes; i += kWarpThreads * kVectorBytes) {
        const int at = i + Lane() * kVectorBytes;
        if (at < kStageBytes) CopyAsync(shared + at, from + at, exists_);
      }
    }

   private:
    __device__ static int64_t StripBytes(const StreamParams& params) {
      return static_cast<int64_t>(params.columns / kTileColumns) * kStageBytes;
    }
    __device__ static const uint8_t* Begin(const StreamParams& params, int tile) {
      int weight = WeightOfTile(params, tile), index = tile - params.first_tile[weight];
      if (params.output == StreamOutput::kGated) {
        weight = tile % 2;
        index = tile / 2;
      }
      return params.weights[weight] + index * StripBytes(params);
    }

    const uint8_t* tiles_;
    bool exists_;
  };

  template <int kFragments>
  __device__ static void Multiply(uint32_t shared, int chunk, const uint4 (&x)[kFragments],
                                  const float (&x_sums)[kFragments][4], float (&sums)[2][kFragments][4]) {
    const LevelPairs a = Levels(shared, chunk);
    float scales[kTraits.groups()][2], mins[2];
    LoadScales(shared, chunk, scales, mins);
#pragma unroll
    for (int i = 0; i < kFragments; ++i) {
      float products[2][4] = {};
      MultiplyAdd(products[0], a.pairs[0][0], a.pairs[1][0], a.pairs[0][1], a.pairs[1][1], x[i].x, x[i].y);
      MultiplyAdd(products[kTraits.groups() - 1], a.pairs[0][2], a.pairs[1][2], a.pairs[0][3], a.pairs[1][3], x[i].z,
                  x[i].w);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        float& sum = sums[chunk][i][j];
#pragma unroll
        for (int group = 0; group < kTraits.groups(); ++group) {
          sum = fmaf(scales[group][j / 2], products[group][j], sum);
        }
        if constexpr (kTraits.has_min) sum = fmaf(mins[j / 2], x_sums[i][j], sum);
      }
    }
  }

  // The scales of the lane's two rows.
  __device__ static void LoadScales(uint32_t shared, int chunk, float (&scales)[kTraits.groups()][2],
                                    float (&mins)[2]) {
#pragma unroll
    for (int group = 0; group < kTraits.groups(); ++group) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int index = (chunk * kTraits.groups() + group) * static_cast<int>(kTileRows) + half * 8 + Lane() / 4;
        const uint32_t at = shared + kTraits.scales_at() + index * (kTraits.has_min ? 4 : 2);
        if constexpr (kTraits.has_min) {
          uint32_t both;
          asm volatile("ld.shared.u32 %0, [%1];" : "=r"(both) : "r"(at) : "memory");
          scales[group][half] = __half2float(__ushort_as_half(static_cast<unsigned short>(both)));
          mins[half] = __half2float(__ushort_as_half(static_cast<unsigned short>(both >> 16)));
        } else {
          uint16_t scale;
          asm volatile("ld.shared.u16 %0, [%1];" : "=h"(scale) : "r"(at) : "memory");
          scales[group][half] = __half2float(__ushort_as_half(scale));
        }
      }
    }
  }

  // The lane's levels, less their offset.
  __device__ static LevelPairs Levels(uint32_t shared, int chunk) {
    if constexpr (kTraits.low_bits == 8) return ByteLevels(shared, chunk);
    const uint2 low = LoadShared8(shared + Lane() * kVectorBytes + chunk * 8);
    uint32_t high = 0;
    if constexpr (kTraits.high_bits > 0) {
      const int word = kTraits.high_bits == 1 ? Lane() : Lane() * 2 + chunk;
      asm volatile("ld.shared.u32 %0, [%1];" : "=r"(high) : "r"(shared + kTraits.high_at() + word * 4) : "memory");
    }
    constexpr uint32_t kHighMask = kTraits.high_bits == 1 ? 0x00100010u : 0x00300030u;
    // -(128 + offset) twice; steps of one are steps of the seventh mantissa bit.
    constexpr uint32_t kMinus = 0xc300c300u + 0x00010001u * kTraits.offset;
    LevelPairs levels;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t word = half == 0 ? low.x : low.y;
#pragma unroll
      for (int pair = 0; pair < 4; ++pair) {
        uint32_t bits = MaskAndSet(word >> (4 * pair), 0x000f000fu, 0x43004300u);
        if constexpr (kTraits.high_bits == 1) {
          bits = MaskAndSet(ShiftTo(high, (chunk * 2 + half) * 4 + pair, 4), kHighMask, bits);
        }
        if constexpr (kTraits.high_bits == 2)
          bits = MaskAndSet(ShiftTo(high, 2 * (half * 4 + pair), 4), kHighMask, bits);
        levels.pairs[half][pair] = SubtractBf16(bits, kMinus);
      }
    }
    return levels;
  }

 private:
  // The low seven bits above 128, less 128 or, where the sign bit is set, 256.
  __device__ static LevelPairs ByteLevels(uint32_t shared, int chunk) {
    const uint4 bytes = LoadShared(shared + chunk * kWarpThreads * kVectorBytes + Lane() * kVectorBytes);
    const uint32_t words[] = {bytes.x, bytes.y, bytes.z, bytes.w};
    LevelPairs levels;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const uint32_t two = words[i / 2] >> (i % 2 * 8);
      const uint32_t low = MaskAndSet(two, 0x007f007fu, 0x43004300u);
      const uint32_t sign = MaskAndSet(two, 0x00800080u, 0xc300c300u);
      levels.pairs[i / 4][i % 4] = SubtractBf16(low, sign);
    }
    return levels;
  }
};

}  // namespace farspan::kernels::cuda
