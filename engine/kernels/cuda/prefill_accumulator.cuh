// SPDX-License-Identifier: Apache-2.0
// The running softmax of a warp's rows of queries, in registers: scores of a step of keys, their weights, and the sums
// of the weighted values. Values of a step are added while the next step's scores become weights, so that the matrix
// products of the one cover the exponentials of the other.
#pragma once

#include <cstdint>
#include <type_traits>

#include "engine/kernels/cuda/prefill_elements.cuh"
#include "engine/kernels/cuda/prefill_plan.cuh"

namespace farspan::kernels::cuda {

// Weights are relative to a maximum that a row keeps until a lane's weights of a step add up to more than this: then
// the row takes its scores' maximum. Until then the larger weights cost nothing (sums are float32, and weights keep
// their relative precision), and no maximum needs to be known before weights are computed.
inline constexpr float kMostWeight = 4096;
inline constexpr float kUnseenScore = -__builtin_huge_valf();

// How a thread block works: kWarps warps of 16 * kRowTiles rows of queries, and blocks of kBlockKeys keys, scored in
// two steps. kQuerySteps of the head's steps of 16 channels keep their query fragments in registers; the others are
// read from shared memory where they are used. kBlocks of them share a multiprocessor.
template <typename ElementType, int kHeadDimension, int kWarpCount, int kTiles, int kHeldQuerySteps, int kBlocks>
struct PrefillShape {
  using Element = ElementType;
  using QueryTile = SharedTile<kHeadDimension / 8>;
  using Tile = SharedTile<kHeadDimension * Element::kBytes / 16>;  // of keys or values
  static constexpr int kHeadDim = kHeadDimension, kRowTiles = kTiles, kBlockKeys = 64, kKeyStep = 32;
  static constexpr int kQuerySteps = kHeldQuerySteps, kResident = kBlocks;
  static constexpr bool kCopiesQueries = std::is_same_v<Element, Bf16Element>;
  static constexpr int kWarps = kWarpCount, kThreads = kWarps * kWarpThreads;
  static constexpr int kWarpRows = 16 * kRowTiles, kRows = kWarps * kWarpRows;
  static constexpr int kStepBytes = kKeyStep * Tile::kRowBytes, kPlaneBytes = kBlockKeys * Tile::kRowBytes;
  static constexpr int kQueryBytes = kRows * QueryTile::kRowBytes;
  // Two blocks of keys; values of a block, of the next, and of the step before; room for a load that runs over the last
  // row's end.
  static constexpr int kValueSteps = 5, kSharedBytes = kQueryBytes + 2 * kPlaneBytes + kValueSteps * kStepBytes + 16;
};

// Where a lane reads: its warp's queries, a block of keys, the values of the step before, and of the block's first
// step.
struct FoldAddresses {
  uint32_t queries, keys, pending, values;
};

// One lane's rows: row i / 2 * 16 + lane / 4 + i % 2 * 8 of the warp, i < 2 kRowTiles.
template <typename S>
struct Accumulator {
  using Element = typename S::Element;
  using Tile = typename S::Tile;
  using QueryTile = typename S::QueryTile;
  using Loaded = Fragments<Element>;
  static constexpr int kHeadDim = S::kHeadDim, kRowTiles = S::kRowTiles, kKeyStep = S::kKeyStep;
  static constexpr int kQuerySteps = S::kQuerySteps, kSteps = kHeadDim / 16, kKeyGroups = kKeyStep / 16;
  static constexpr int kHeldSteps = kQuerySteps > 0 ? kQuerySteps : 1;
  // Loads of four matrices that bring a group of 16 keys, or their values.
  static constexpr int kLoads = (kSteps + Loaded::kSteps - 1) / Loaded::kSteps;
  static constexpr int kPairs = kRowTiles * kKeyStep / 4;  // of scores that a lane holds

  float out[kRowTiles][kHeadDim / 8][4];
  float offset[kRowTiles][2];  // log2 of what weights are divided by, negated; infinite where nothing was seen
  float sum[kRowTiles][2];     // of this lane's columns
  float scores[kRowTiles][kKeyStep / 8][4];
  uint32_t weights[kKeyGroups][kRowTiles][4];  // whose values are to be added
  uint32_t query[kHeldSteps][kRowTiles][4];

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
  template <int kStep = 0>
  __device__ __forceinline__ void LoadQueries(uint32_t queries) {
    if constexpr (kStep < kQuerySteps) {
      LoadQueryStep<kStep>(queries, query[kStep]);
      LoadQueries<kStep + 1>(queries);
    }
  }

  // Makes `scores` those of the step of keys whose first row is at `keys`.
  __device__ __forceinline__ void Score(uint32_t queries, uint32_t keys) {
    ClearScores();
    ScoreFrom<0>(queries, keys);
  }

  // Adds the pending weights' values, which begin at `values`.
  __device__ __forceinline__ void AddWeighted(uint32_t values) { AddFrom<0>(values); }

  // Folds the two steps of a block of keys that every query sees, while weights are pending: each is scored, and
  // becomes the pending weights while those before are added. Ends before a step whose weights not all rows of the warp
  // may use, with none pending, and returns how many steps were folded. Copies::Start<i>() is called for each i <
  // Copies::kCopies on the way.
  template <typename Copies>
  __device__ __forceinline__ int FoldBlock(const FoldAddresses& at, float scale_log2, const Copies& copies) {
    Ring ring;
    LoadAhead<0>(at, &ring);
    return FoldFrom<0>(at, scale_log2, copies, &ring);
  }

  // Makes any scores the pending weights, after rows whose weights would be too large have taken another maximum. A row
  // decides for itself, so that its result does not depend on its neighbours. No weights are pending before.
  __device__ __forceinline__ void WeighAnew(float scale_log2) {
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
    uint32_t next[kKeyGroups][kRowTiles][4];
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair) WeighPair(pair, scale_log2, finite_offset, step_sum, next);
    TakeWeights(next);
    AddSums(step_sum);
  }

 private:
  // Work on steps of keys is a row of stages, each of which needs one load of fragments: kLoads stages score a step,
  // then kSlices add the values of the step before. Loads are kAhead stages ahead of their use.
  static constexpr int kSlices = kKeyGroups * kLoads, kStages = kLoads + kSlices, kAhead = 2, kFenceStages = 2;
  static constexpr int kRingSize = kAhead + 1, kFoldStages = 2 * kStages;
  static constexpr int kCopyStages = kFoldStages / 8;

  struct Load {
    uint32_t keys[kKeyGroups][4];  // values where they are to be added: the first
    uint32_t queries[Loaded::kSteps][kRowTiles][4];
  };
  struct Ring {
    Load loads[kRingSize];
  };

  template <int kFirst>
  __device__ __forceinline__ void LoadAhead(const FoldAddresses& at, Ring* ring) {
    if constexpr (kFirst < kAhead) {
      LoadStage<kFirst>(at, &ring->loads[kFirst]);
      LoadAhead<kFirst + 1>(at, ring);
    }
  }

  template <int kStage>
  __device__ __forceinline__ void LoadStage(const FoldAddresses& at, Load* load) {
    if constexpr (kStage < kFoldStages) {
      constexpr int kStep = kStage / kStages, kPlace = kStage % kStages;
      if constexpr (kPlace < kLoads) {
        LoadKeys<kPlace>(at.queries, at.keys + kStep * S::kStepBytes, load);
      } else {
        LoadValues<kPlace - kLoads>(kStep == 0 ? at.pending : at.values, load->keys[0]);
      }
    }
  }

  template <int kStep, typename Copies>
  __device__ __forceinline__ int FoldFrom(const FoldAddresses& at, float scale_log2, const Copies& copies, Ring* ring) {
    if constexpr (kStep < 2) {
      float step_sum[kRowTiles][2];
      uint32_t next[kKeyGroups][kRowTiles][4];
      ClearScores();
      FoldStage<kStep * kStages>(at, scale_log2, copies, ring, step_sum, next);
      bool fits = true;
#pragma unroll
      for (int tile = 0; tile < kRowTiles; ++tile) {
        fits = fits && step_sum[tile][0] <= kMostWeight && step_sum[tile][1] <= kMostWeight;
      }
      TakeWeights(next);
      if (__builtin_expect(!__all_sync(kWholeWarp, fits), 0)) return kStep;
      AddSums(step_sum);
      return FoldFrom<kStep + 1>(at, scale_log2, copies, ring);
    }
    return kStep;
  }

  template <int kCopy, int kEnd, typename Copies>
  __device__ __forceinline__ void StartCopies(const Copies& copies) {
    if constexpr (kCopy < kEnd) {
      copies.template Start<kCopy>();
      StartCopies<kCopy + 1, kEnd>(copies);
    }
  }

  template <int kStage, typename Copies>
  __device__ __forceinline__ void FoldStage(const FoldAddresses& at, float scale_log2, const Copies& copies, Ring* ring,
                                            float (&step_sum)[kRowTiles][2],
                                            uint32_t (&next)[kKeyGroups][kRowTiles][4]) {
    constexpr int kPlace = kStage % kStages, kSlice = kPlace - kLoads;
    LoadStage<kStage + kAhead>(at, &ring->loads[(kStage + kAhead) % kRingSize]);
    const Load& load = ring->loads[kStage % kRingSize];
    if constexpr (kSlice < 0) {
      ScoreLoad<kPlace>(load);
    } else {
      AddLoad<kSlice>(load.keys[0]);
#pragma unroll
      for (int pair = kSlice * kPairs / kSlices; pair < (kSlice + 1) * kPairs / kSlices; ++pair) {
        WeighPair(pair, scale_log2, offset, step_sum, next);
      }
    }
    // Copies are started in four groups, since the first of neighbouring ones costs most.
    if constexpr (kStage % kCopyStages == kCopyStages - 1 && kStage / kCopyStages < 4) {
      constexpr int kGroup = kStage / kCopyStages;
      StartCopies<kGroup * Copies::kCopies / 4, (kGroup + 1) * Copies::kCopies / 4>(copies);
    }
    // Keeps the assembler from collecting all exponentials behind all products.
    if constexpr (kStage % kFenceStages == kFenceStages - 1) __syncwarp();
    if constexpr (kPlace + 1 < kStages) FoldStage<kStage + 1>(at, scale_log2, copies, ring, step_sum, next);
  }

  template <int kLoad>
  __device__ __forceinline__ void ScoreFrom(uint32_t queries, uint32_t keys) {
    if constexpr (kLoad < kLoads) {
      Load load;
      LoadKeys<kLoad>(queries, keys, &load);
      ScoreLoad<kLoad>(load);
      ScoreFrom<kLoad + 1>(queries, keys);
    }
  }

  template <int kSlice>
  __device__ __forceinline__ void AddFrom(uint32_t values) {
    if constexpr (kSlice < kSlices) {
      uint32_t loaded[4];
      LoadValues<kSlice>(values, loaded);
      AddLoad<kSlice>(loaded);
      AddFrom<kSlice + 1>(values);
    }
  }

  __device__ __forceinline__ void ClearScores() {
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
      for (int n = 0; n < kKeyStep / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) scores[tile][n][i] = 0;
      }
    }
  }

  // Of the steps of channels that load kLoad brings.
  template <int kLoad>
  __device__ __forceinline__ void LoadKeys(uint32_t queries, uint32_t keys, Load* load) {
#pragma unroll
    for (int group = 0; group < kKeyGroups; ++group) {
      LoadMatrices(Tile::template Advance<2 * kLoad>(keys) + group * 16 * Tile::kRowBytes, load->keys[group]);
    }
    LoadQuerySteps<kLoad * Loaded::kSteps>(queries, load->queries);
  }

  template <int kStep>
  __device__ __forceinline__ void LoadQuerySteps(uint32_t queries, uint32_t (&target)[Loaded::kSteps][kRowTiles][4]) {
    if constexpr (kStep < kSteps) {
      if constexpr (kStep >= kQuerySteps) LoadQueryStep<kStep>(queries, target[kStep % Loaded::kSteps]);
      if constexpr ((kStep + 1) % Loaded::kSteps != 0) LoadQuerySteps<kStep + 1>(queries, target);
    }
  }

  template <int kStep>
  __device__ __forceinline__ void LoadQueryStep(uint32_t queries, uint32_t (&target)[kRowTiles][4]) {
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
      LoadMatrices(QueryTile::template Advance<2 * kStep>(queries) + tile * 16 * QueryTile::kRowBytes, target[tile]);
    }
  }

  template <int kSlice>
  __device__ __forceinline__ void LoadValues(uint32_t values, uint32_t (&loaded)[4]) {
    LoadMatricesTransposed(
        Tile::template Advance<2 * (kSlice % kLoads)>(values) + kSlice / kLoads * 16 * Tile::kRowBytes, loaded);
  }

  template <int kLoad>
  __device__ __forceinline__ void ScoreLoad(const Load& load) {
#pragma unroll
    for (int part = 0; part < Loaded::kSteps; ++part) {
      const int step = kLoad * Loaded::kSteps + part;
      if (step >= kSteps) break;
#pragma unroll
      for (int group = 0; group < kKeyGroups; ++group) {
        uint32_t key[4];
        Loaded::Keys(load.keys[group], part, key);
#pragma unroll
        for (int tile = 0; tile < kRowTiles; ++tile) {
          uint32_t q[4];
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            q[i] = step < kQuerySteps ? query[step < kQuerySteps ? step : 0][tile][i] : load.queries[part][tile][i];
          }
          Element::MultiplyAdd(scores[tile][2 * group], q, key[0], key[1]);
          Element::MultiplyAdd(scores[tile][2 * group + 1], q, key[2], key[3]);
        }
      }
    }
  }

  template <int kSlice>
  __device__ __forceinline__ void AddLoad(const uint32_t (&loaded)[4]) {
    constexpr int kGroup = kSlice / kLoads, kLoad = kSlice % kLoads;
#pragma unroll
    for (int part = 0; part < Loaded::kSteps; ++part) {
      const int step = kLoad * Loaded::kSteps + part;
      if (step >= kSteps) break;
      uint32_t value[4];
      Loaded::Values(loaded, part, value);
#pragma unroll
      for (int tile = 0; tile < kRowTiles; ++tile) {
        Element::MultiplyAdd(out[tile][2 * step], weights[kGroup][tile], value[0], value[1]);
        Element::MultiplyAdd(out[tile][2 * step + 1], weights[kGroup][tile], value[2], value[3]);
      }
    }
  }

  // Pairs are of neighbouring columns of one row; a row's come in ascending order.
  __device__ __forceinline__ void WeighPair(int pair, float scale_log2, const float (&offsets)[kRowTiles][2],
                                            float (&step_sum)[kRowTiles][2],
                                            uint32_t (&next)[kKeyGroups][kRowTiles][4]) {
    const int n = pair / (2 * kRowTiles), tile = pair / 2 % kRowTiles, half = pair % 2;
    const float first = Exp2(fmaf(scores[tile][n][2 * half], scale_log2, offsets[tile][half]));
    const float second = Exp2(fmaf(scores[tile][n][2 * half + 1], scale_log2, offsets[tile][half]));
    step_sum[tile][half] = (n == 0 ? first : step_sum[tile][half] + first) + second;
    next[n / 2][tile][n % 2 * 2 + half] = Element::Pack(first, second);
  }

  __device__ __forceinline__ void TakeWeights(const uint32_t (&next)[kKeyGroups][kRowTiles][4]) {
#pragma unroll
    for (int group = 0; group < kKeyGroups; ++group) {
#pragma unroll
      for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
        for (int i = 0; i < 4; ++i) weights[group][tile][i] = next[group][tile][i];
      }
    }
  }

  __device__ __forceinline__ void AddSums(const float (&step_sum)[kRowTiles][2]) {
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
      sum[tile][0] += step_sum[tile][0];
      sum[tile][1] += step_sum[tile][1];
    }
  }

  __device__ __forceinline__ void Shrink(const float (&shrink)[kRowTiles][2]) {
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
