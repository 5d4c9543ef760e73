// SPDX-License-Identifier: Apache-2.0
// The running softmax of a warp's rows of queries, in registers: scores of a step of keys, their weights, and the sums
// of the weighted values.
#pragma once

#include <cstdint>
#include <type_traits>

#include "engine/kernels/cuda/matrix_fragments.cuh"
#include "engine/kernels/cuda/prefill_plan.cuh"

namespace farspan::kernels::cuda {

// Weights are relative to a maximum that a row keeps until a lane's weights of a step add up to more than this: then
// the row takes its scores' maximum. Until then the larger weights cost nothing (sums are float32, and weights keep
// their relative precision), and no maximum needs to be known before weights are computed.
inline constexpr float kMostWeight = 4096;
inline constexpr float kUnseenScore = -__builtin_huge_valf();

// How a thread block works: kWarps warps of 16 * kRowTiles rows of queries, and blocks of kBlockKeys keys, of which
// kKeyStep are scored at a time. kQuerySteps of the head's steps of 16 channels keep their query fragments in
// registers; the others are read from shared memory where they are used.
template <typename ElementType, int kHeadDimension, int kTiles, int kBlock, int kStep, int kHeldQuerySteps,
          int kBlocksPerMultiprocessor = 2>
struct PrefillShape {
  using Element = ElementType;
  using Tile = SharedTile<kHeadDimension / 8>;
  static constexpr int kHeadDim = kHeadDimension, kRowTiles = kTiles, kBlockKeys = kBlock, kKeyStep = kStep;
  static constexpr int kQuerySteps = kHeldQuerySteps, kResident = kBlocksPerMultiprocessor;
  static constexpr bool kCopiesQueries = std::is_same_v<Element, Bf16Element>;
  static constexpr int kWarps = 4, kThreads = kWarps * kWarpThreads, kStages = 2;
  static constexpr int kWarpRows = 16 * kRowTiles, kRows = kWarps * kWarpRows;
  static constexpr int kPlaneBytes = kBlockKeys * Tile::kRowBytes;  // keys or values of one block
  static constexpr int kQueryBytes = kRows * Tile::kRowBytes;
  static constexpr int kSharedBytes = kQueryBytes + kStages * 2 * kPlaneBytes;
};

// One lane's rows: row i / 2 * 16 + lane / 4 + i % 2 * 8 of the warp, i < 2 kRowTiles.
template <typename S>
struct Accumulator {
  using Element = typename S::Element;
  using Tile = typename S::Tile;
  static constexpr int kHeadDim = S::kHeadDim, kRowTiles = S::kRowTiles, kKeyStep = S::kKeyStep;
  static constexpr int kQuerySteps = S::kQuerySteps, kSteps = kHeadDim / 16;
  static constexpr int kHeldSteps = kQuerySteps > 0 ? kQuerySteps : 1;

  float out[kRowTiles][kHeadDim / 8][4];
  float offset[kRowTiles][2];  // log2 of what weights are divided by, negated; infinite where nothing was seen
  float sum[kRowTiles][2];     // of this lane's columns
  uint32_t query[kRowTiles][kHeldSteps][4];

  __device__ void Reset() {
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        offset[tile][half] = -kUnseenScore;
        sum[tile][half] = 0;
      }
#pragma unroll
      for (int n = 0; n < kHeadDim / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) out[tile][n][i] = 0;
      }
    }
  }

  // `queries` is the lane's address of row tile 0, step 0.
  __device__ void LoadQueries(uint32_t queries) { LoadQueriesFrom<0>(queries); }

  template <int kStep>
  __device__ void LoadQueriesFrom(uint32_t queries) {
    if constexpr (kStep < kQuerySteps) {
#pragma unroll
      for (int tile = 0; tile < kRowTiles; ++tile) {
        LoadMatrices(Tile::template Advance<2 * kStep>(queries) + tile * 16 * Tile::kRowBytes, query[tile][kStep]);
      }
      LoadQueriesFrom<kStep + 1>(queries);
    }
  }

  template <int kStep>
  __device__ void Score(uint32_t queries, uint32_t keys, float (&scores)[kRowTiles][kKeyStep / 8][4]) {
    if constexpr (kStep < kSteps) {
      uint32_t loaded[kRowTiles][4];
      if constexpr (kStep >= kQuerySteps) {
#pragma unroll
        for (int tile = 0; tile < kRowTiles; ++tile) {
          LoadMatrices(Tile::template Advance<2 * kStep>(queries) + tile * 16 * Tile::kRowBytes, loaded[tile]);
        }
      }
#pragma unroll
      for (int n = 0; n < kKeyStep / 16; ++n) {
        uint32_t key[4];
        LoadMatrices(Tile::template Advance<2 * kStep>(keys) + n * 16 * Tile::kRowBytes, key);
#pragma unroll
        for (int tile = 0; tile < kRowTiles; ++tile) {
          const uint32_t(&q)[4] = kStep < kQuerySteps ? query[tile][kStep < kQuerySteps ? kStep : 0] : loaded[tile];
          Element::MultiplyAdd(scores[tile][2 * n], q, key[0], key[1]);
          Element::MultiplyAdd(scores[tile][2 * n + 1], q, key[2], key[3]);
        }
      }
      Score<kStep + 1>(queries, keys, scores);
    }
  }

  // Turns scores of keys that every query sees into weights, and adds these up; true where all rows of the warp may
  // use them. Where not, the sums are as before and the scores are lost.
  __device__ __forceinline__ bool Weigh(float scale_log2, float (&scores)[kRowTiles][kKeyStep / 8][4]) {
    float step_sum[kRowTiles][2];
    bool fits = true;
    WeighAll(scale_log2, offset, scores, step_sum);
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
      fits = fits && step_sum[tile][0] <= kMostWeight && step_sum[tile][1] <= kMostWeight;
    }
    if (!__all_sync(kWholeWarp, fits)) return false;
    AddSums(step_sum);
    return true;
  }

  // The same for any scores, after rows whose weights would be too large have taken another maximum. A row decides for
  // itself, so that its result does not depend on its neighbours.
  __device__ __forceinline__ void WeighAnew(float scale_log2, float (&scores)[kRowTiles][kKeyStep / 8][4]) {
    float shrink[kRowTiles][2], finite_offset[kRowTiles][2], step_sum[kRowTiles][2];
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float most = kUnseenScore, total = 0;
#pragma unroll
        for (int n = 0; n < kKeyStep / 8; ++n) {
#pragma unroll
          for (int i = 2 * half; i < 2 * half + 2; ++i) {
            most = fmaxf(most, scores[tile][n][i]);
            total += Exp2(fmaf(scores[tile][n][i], scale_log2, offset[tile][half]));
          }
        }
        const unsigned row_lanes = 0xfu << (threadIdx.x % kWarpThreads / 4 * 4);
        most = fmaxf(most, __shfl_xor_sync(kWholeWarp, most, 1));
        most = fmaxf(most, __shfl_xor_sync(kWholeWarp, most, 2));
        const bool fits = (__ballot_sync(kWholeWarp, !(total <= kMostWeight)) & row_lanes) == 0;
        const float new_offset = fits || most == kUnseenScore ? offset[tile][half] : -most * scale_log2;
        shrink[tile][half] = new_offset == offset[tile][half] ? 1 : Exp2(new_offset - offset[tile][half]);
        offset[tile][half] = new_offset;
        finite_offset[tile][half] = new_offset == -kUnseenScore ? 0 : new_offset;
      }
    }
    Shrink(shrink);
    WeighAll(scale_log2, finite_offset, scores, step_sum);
    AddSums(step_sum);
  }

  __device__ __forceinline__ void WeighAll(float scale_log2, const float (&offsets)[kRowTiles][2],
                                           float (&scores)[kRowTiles][kKeyStep / 8][4],
                                           float (&step_sum)[kRowTiles][2]) {
#pragma unroll
    for (int n = 0; n < kKeyStep / 8; ++n) {
#pragma unroll
      for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          float& score = scores[tile][n][i];
          score = Exp2(fmaf(score, scale_log2, offsets[tile][i / 2]));
          step_sum[tile][i / 2] = n == 0 && i % 2 == 0 ? score : step_sum[tile][i / 2] + score;
        }
      }
    }
  }

  // Scores the keys again, all of which every query sees, and weighs them anew.
  __device__ __forceinline__ void ScoreAnew(uint32_t queries, uint32_t keys, float scale_log2,
                                            float (&scores)[kRowTiles][kKeyStep / 8][4]) {
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
      for (int n = 0; n < kKeyStep / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) scores[tile][n][i] = 0;
      }
    }
    Score<0>(queries, keys, scores);
    WeighAnew(scale_log2, scores);
  }

  __device__ __forceinline__ void AddSums(const float (&step_sum)[kRowTiles][2]) {
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
      sum[tile][0] += step_sum[tile][0];
      sum[tile][1] += step_sum[tile][1];
    }
  }

  __device__ void Shrink(const float (&shrink)[kRowTiles][2]) {
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
      sum[tile][0] *= shrink[tile][0];
      sum[tile][1] *= shrink[tile][1];
#pragma unroll
      for (int n = 0; n < kHeadDim / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) out[tile][n][i] *= shrink[tile][i / 2];
      }
    }
  }

  template <int kStep>
  __device__ void AddValues(uint32_t values, const uint32_t (&weights)[kRowTiles][4]) {
    if constexpr (kStep < kSteps) {
      uint32_t value[4];
      LoadMatricesTransposed(Tile::template Advance<2 * kStep>(values), value);
#pragma unroll
      for (int tile = 0; tile < kRowTiles; ++tile) {
        Element::MultiplyAdd(out[tile][2 * kStep], weights[tile], value[0], value[1]);
        Element::MultiplyAdd(out[tile][2 * kStep + 1], weights[tile], value[2], value[3]);
      }
      AddValues<kStep + 1>(values, weights);
    }
  }

  __device__ void AddWeighted(uint32_t values, const float (&scores)[kRowTiles][kKeyStep / 8][4]) {
#pragma unroll
    for (int n = 0; n < kKeyStep / 16; ++n) {
      uint32_t weights[kRowTiles][4];
#pragma unroll
      for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float(&pair)[4] = scores[tile][2 * n + i / 2];
          weights[tile][i] = Element::Pack(pair[i % 2 * 2], pair[i % 2 * 2 + 1]);
        }
      }
      AddValues<0>(values + n * 16 * Tile::kRowBytes, weights);
    }
  }
};

// Removes the scores that a query does not see of slots [first_slot, first_slot + kKeyStep).
template <int kRowTiles, int kKeyStep>
__device__ inline void HideUnseen(const PrefillWork& work, const PrefillPlan& plan, const PlanBlock& block,
                                  int warp_row, int first_slot, float (&scores)[kRowTiles][kKeyStep / 8][4]) {
  const int lane = static_cast<int>(threadIdx.x % kWarpThreads),
            first_head = __ffs(static_cast<int>(work.head_mask)) - 1;
#pragma unroll
  for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = warp_row + tile * 16 + half * 8 + lane / 4;
      const int query = work.Query(row);
      if (block.sight == Sight::kContiguous) {
        const int newest = query - block.first_delta;  // slot of the query's own position
        const int end = newest + 1 < block.tokens ? newest + 1 : block.tokens;
        const int begin = block.window == kFarAway ? 0 : newest - block.window + 1;
#pragma unroll
        for (int n = 0; n < kKeyStep / 8; ++n) {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const int slot = first_slot + n * 8 + lane % 4 * 2 + i;
            if (slot < begin || slot >= end) scores[tile][n][2 * half + i] = kUnseenScore;
          }
        }
        continue;
      }
      const uint32_t head_bit = 1u << (first_head + work.Head(row));
      const int last = block.first_piece + block.num_pieces - 1;
      int index = block.first_piece;
#pragma unroll
      for (int n = 0; n < kKeyStep / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int slot = first_slot + n * 8 + lane % 4 * 2 + i;
          while (index < last && plan.pieces[index + 1].begin <= slot) ++index;
          const PlanPiece& piece = plan.pieces[index];
          const int behind = query - (piece.delta + slot);
          const bool seen = slot < piece.end && (piece.head_mask & head_bit) != 0 && behind >= 0 &&
                            (piece.window == kFarAway || behind < piece.window);
          if (!seen) scores[tile][n][2 * half + i] = kUnseenScore;
        }
      }
    }
  }
}

}  // namespace farspan::kernels::cuda
