// SPDX-License-Identifier: Apache-2.0
// Tiles of quantised weights as operands of tensor cores. A level needs no conversion: a bf16 whose exponent field is 0
// or 1 is its low eight bits times 2^-133, so that levels masked out of their words are such numbers already. Rows of x
// come scaled up by as much as keeps the products in the middle of float32's range; both scales are powers of two and
// change no digit. The offset of levels goes into where a group's sum begins: -offset times the sum of its x.
#pragma once

#include "engine/kernels/cuda/stream_params.cuh"
#include "engine/kernels/weight_tiles.h"

namespace farspan::kernels::cuda {

inline constexpr float kRowScale = 0x1p86f;   // of x where its levels stand in their lowest bits
inline constexpr float kSumScale = 0x1p-47f;  // of sums of products: 2^-133 * kRowScale
inline constexpr float kUnscaleSums = 0x1p47f;

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
class TileLevels {
 public:
  static constexpr TileTraits kTraits = TraitsOfTiles(kType);
  // Odd pairs stay where they are, four bits up: x is divided by 16 in their columns.
  static constexpr bool kRaisesOddPairs = kTraits.low_bits == 4 && kTraits.high_bits == 0;
  // What is added to a level to make it positive.
  static constexpr int kOffset = kTraits.low_bits == 8 ? 128 : kTraits.offset;

  __device__ void Load(uint32_t tile) {
#pragma unroll
    for (int i = 0; i < kTraits.low_bits / 4; ++i) {
      low_[i] = LoadShared(tile + (i * kWarpThreads + Lane()) * kVectorBytes);
    }
    if constexpr (kTraits.high_bits == 1) high_.x = LoadShared4(tile + kTraits.high_at() + Lane() * 4);
    if constexpr (kTraits.high_bits == 2) high_ = LoadShared8(tile + kTraits.high_at() + Lane() * 8);
  }

  // Of the lane's row in half `half`, pair `pair` of its columns in chunk `chunk`.
  __device__ uint32_t Pair(int chunk, int half, int pair) const {
    if constexpr (kTraits.low_bits == 8) {
      const uint4& words = low_[chunk];
      const uint32_t word = half == 0 ? (pair < 2 ? words.x : words.y) : (pair < 2 ? words.z : words.w);
      return (word >> (pair % 2 * 8) & 0x00ff00ffu) ^ 0x00800080u;
    }
    const uint4& words = low_[0];
    const uint32_t word = chunk == 0 ? (half == 0 ? words.x : words.y) : (half == 0 ? words.z : words.w);
    if constexpr (kRaisesOddPairs) return word >> (pair / 2 * 8) & (pair % 2 == 0 ? 0x000f000fu : 0x00f000f0u);
    const uint32_t level = word >> (4 * pair) & 0x000f000fu;
    if constexpr (kTraits.high_bits == 1) {
      return MaskAndSet(ShiftTo(high_.x, (chunk * 2 + half) * 4 + pair, 4), 0x00100010u, level);
    }
    return MaskAndSet(ShiftTo(chunk == 0 ? high_.x : high_.y, 2 * (half * 4 + pair), 4), 0x00300030u, level);
  }

 private:
  uint4 low_[kTraits.low_bits / 4];
  uint2 high_;
};

}  // namespace farspan::kernels::cuda
