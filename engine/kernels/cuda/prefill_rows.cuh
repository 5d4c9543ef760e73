// SPDX-License-Identifier: Apache-2.0
// Rows of queries, keys, values and results on their way between memory and a thread block's shared memory.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "engine/kernels/cuda/matrix_fragments.cuh"
#include "engine/kernels/cuda/prefill_plan.cuh"

namespace farspan::kernels::cuda {

// Starts copying a block's keys and values into the stage at `shared`; slots that hold no seen key become zeros.
template <typename S>
__device__ __forceinline__ void CopyBlock(const KvLayerView& cache, const PrefillPlan& plan, int index,
                                          uint32_t shared) {
  constexpr int kHeadDim = S::kHeadDim, kChunks = kHeadDim / 8, kBlockKeys = S::kBlockKeys, kThreads = S::kThreads;
  constexpr int kCopies = (kBlockKeys * kChunks + kThreads - 1) / kThreads;
  const int num_pieces = plan.blocks[index].num_pieces, piece_shift = plan.blocks[index].piece_shift;
  const PlanPiece* pieces = plan.pieces + plan.blocks[index].first_piece;
  const auto* data = static_cast<const uint8_t*>(cache.data);
  const int64_t values = cache.page_tokens * kHeadDim * 2;  // bytes from a key to its value
  const int thread = static_cast<int>(threadIdx.x);
  if (piece_shift != kUneven) {
    // All rows are found before the first copy starts: a copy waits for whatever was read before it.
    int rows[kCopies];
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      const int slot = min((thread + i * kThreads) / kChunks, kBlockKeys - 1);
      rows[i] = pieces[slot >> piece_shift].row + slot;
    }
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      const int copy = thread + i * kThreads, slot = copy / kChunks, chunk = copy % kChunks;
      if (kBlockKeys * kChunks % kThreads != 0 && copy >= kBlockKeys * kChunks) break;
      const uint8_t* key = data + static_cast<int64_t>(rows[i]) * (kHeadDim * 2) + chunk * 16;
      const uint32_t target = shared + S::Tile::Offset(slot, chunk);
      CopyAsync16(target, key);
      CopyAsync16(target + S::kPlaneBytes, key + values);
    }
    return;
  }
  int piece = 0;
#pragma unroll 1
  for (int copy = thread; copy < kBlockKeys * kChunks; copy += kThreads) {
    const int slot = copy / kChunks, chunk = copy % kChunks;
    while (piece + 1 < num_pieces && pieces[piece + 1].begin <= slot) ++piece;
    const bool valid = slot < pieces[piece].end;
    const int64_t row = valid ? pieces[piece].row + slot : 0;
    const uint8_t* key = data + row * (kHeadDim * 2) + chunk * 16;
    const uint32_t target = shared + S::Tile::Offset(slot, chunk);
    CopyAsync16(target, key, valid);
    CopyAsync16(target + S::kPlaneBytes, key + values, valid);
  }
}

// cos and sin of `position` * `inverse_frequency`; the angle is reduced in float64.
__device__ inline float2 CosSin(int64_t position, double inverse_frequency) {
  constexpr double kTurnsPerRadian = 0.15915494309189533577;
  const double turns = static_cast<double>(position) * (inverse_frequency * kTurnsPerRadian);
  float2 result;
  sincospif(2 * static_cast<float>(turns - rint(turns)), &result.y, &result.x);
  return result;
}

__device__ inline float2 LoadQueryPair(const AttentionCommon& common, int64_t offset) {
  if (common.activation == Activation::kF32) return *reinterpret_cast<const float2*>(common.q_f32() + offset);
  return __bfloat1622float2(
      *reinterpret_cast<const __nv_bfloat162*>(static_cast<const __nv_bfloat16*>(common.q) + offset));
}

// Starts copying the warp's queries into shared memory, where they have the matrix products' element. Rows without a
// query are zeros.
template <typename S>
__device__ inline void CopyQueries(const AttentionCommon& common, const PrefillWork& work, int first_row,
                                   uint8_t* queries) {
  constexpr int kChunks = S::kHeadDim / 8;
  const int lane = static_cast<int>(threadIdx.x % kWarpThreads), warp = static_cast<int>(threadIdx.x / kWarpThreads);
  const auto* q = static_cast<const uint16_t*>(common.q);
#pragma unroll 4
  for (int i = lane; i < S::kWarpRows * kChunks; i += kWarpThreads) {
    const int row = warp * S::kWarpRows + i / kChunks, chunk = i % kChunks;
    const int64_t index = work.VectorIndex(common, first_row + row);
    CopyAsync16(SharedAddress(queries) + S::Tile::Offset(row, chunk),
                q + (index < 0 ? 0 : index * S::kHeadDim + chunk * 8), index >= 0);
  }
}

// Writes the warp's queries into shared memory, those that stand beyond `cap` turned to it. Rows without a query are
// zeros.
template <typename S>
__device__ inline void WriteQueries(const AttentionCommon& common, const PrefillWork& work, int first_row, int cap,
                                    uint8_t* queries) {
  const int lane = static_cast<int>(threadIdx.x % kWarpThreads), warp = static_cast<int>(threadIdx.x / kWarpThreads);
  for (int pair = lane; pair < S::kHeadDim / 2; pair += kWarpThreads) {
    const bool turns = cap != kFarAway && 2 * pair < common.rope_dim;
    const float2 at_cap =
        turns ? CosSin(work.tile.first_position + cap, common.inverse_frequencies[pair]) : make_float2(1, 0);
#pragma unroll 8
    for (int i = 0; i < S::kWarpRows; ++i) {
      const int row = warp * S::kWarpRows + i, query = work.Query(first_row + row);
      const int64_t index = work.VectorIndex(common, first_row + row);
      float2 q = make_float2(0, 0);
      if (index >= 0) {
        const int64_t batch_row = work.tile.row + query;
        q = LoadQueryPair(common, index * S::kHeadDim + 2 * pair);
        if (turns && query > cap) {
          const float2 own =
              reinterpret_cast<const float2*>(common.rope_cos_sin)[batch_row * (common.rope_dim / 2) + pair];
          const float turn_cos = at_cap.x * own.x + at_cap.y * own.y, turn_sin = at_cap.y * own.x - at_cap.x * own.y;
          q = make_float2(q.x * turn_cos - q.y * turn_sin, q.x * turn_sin + q.y * turn_cos);
        }
      }
      *reinterpret_cast<uint32_t*>(queries + S::Tile::Offset(row, pair / 4) + pair % 4 * 4) =
          S::Element::Pack(q.x, q.y);
    }
  }
  __syncwarp();
}

// Writes the warp's normalised rows, through its part of the queries' shared memory where they are 16-bit. Row tiles
// and halves are an Accumulator's.
template <typename S, typename Sums>
__device__ inline void WriteResults(const AttentionCommon& common, const PrefillWork& work, int first_row,
                                    const Sums& sums, uint8_t* queries) {
  constexpr int kHeadDim = S::kHeadDim, kChunks = kHeadDim / 8;
  const int lane = static_cast<int>(threadIdx.x % kWarpThreads), warp = static_cast<int>(threadIdx.x / kWarpThreads);
#pragma unroll
  for (int i = 0; i < 2 * S::kRowTiles; ++i) {
    const int tile = i / 2, half = i % 2;
    float sum = sums.sum[tile][half];
    sum += __shfl_xor_sync(kWholeWarp, sum, 1);
    sum += __shfl_xor_sync(kWholeWarp, sum, 2);
    const float inverse = sum == 0 ? 0.0f : 1.0f / sum;
    const int row = warp * S::kWarpRows + i * 8 + lane / 4;
    const int64_t index = work.VectorIndex(common, first_row + row);
    if (index >= 0 && lane % 4 == 0 && common.lse != nullptr) {
      constexpr float kLn2 = 0.69314718055994530942f;
      common.lse[index] = kLn2 * (log2f(sum) - sums.offset[tile][half]);
    }
#pragma unroll
    for (int n = 0; n < kChunks; ++n) {
      const float low = sums.out[tile][n][2 * half] * inverse, high = sums.out[tile][n][2 * half + 1] * inverse;
      if (common.activation == Activation::kBf16) {
        *reinterpret_cast<uint32_t*>(queries + S::Tile::Offset(row, n) + lane % 4 * 4) = Bf16Element::Pack(low, high);
      } else if (index >= 0) {
        *reinterpret_cast<float2*>(common.out_f32() + index * kHeadDim + n * 8 + lane % 4 * 2) = make_float2(low, high);
      }
    }
  }
  if (common.activation != Activation::kBf16) return;
  __syncwarp();
  for (int i = lane; i < S::kWarpRows * kChunks; i += kWarpThreads) {
    const int row = warp * S::kWarpRows + i / kChunks, chunk = i % kChunks;
    const int64_t index = work.VectorIndex(common, first_row + row);
    if (index < 0) break;
    *reinterpret_cast<uint4*>(static_cast<__nv_bfloat16*>(common.out) + index * kHeadDim + chunk * 8) =
        *reinterpret_cast<const uint4*>(queries + S::Tile::Offset(row, chunk));
  }
}

}  // namespace farspan::kernels::cuda
