// SPDX-License-Identifier: Apache-2.0
// Prefill attention by warp-level matrix products, for sm_80 and later. A thread block holds 128 rows of queries; keys
// and values come in blocks of 64 tokens, gathered from the list's pages, the next block while this one is used.
#pragma once

#include "engine/kernels/cuda/device.cuh"
#include "engine/kernels/cuda/matrix_fragments.cuh"
#include "engine/kernels/cuda/prefill_accumulator.cuh"
#include "engine/kernels/cuda/prefill_launch.h"
#include "engine/kernels/cuda/prefill_plan.cuh"
#include "engine/kernels/cuda/prefill_rows.cuh"
#include "engine/kernels/cuda/prefill_work.cuh"

namespace farspan::kernels::cuda {

// A thread block's way through its list. Two plans take turns, so that the block of keys in use keeps its pieces while
// later ones are planned. Block i of plan p is place 32 p + i.
template <int kBlockKeys>
struct BlockWalk {
  static constexpr int kNowhere = -1;

  const AttentionCommon& common;
  const PrefillWork& work;
  PlanCursor* cursor;
  PrefillPlan* plans;  // 2

  __device__ const PrefillPlan& Plan(int place) const { return plans[place / kWarpThreads]; }
  __device__ const PlanBlock& Block(int place) const { return Plan(place).blocks[place % kWarpThreads]; }

  // The first block of plan `plan` once it is made of what follows in the list. Every thread calls it.
  __device__ int Replan(int plan) const {
    do {
      __syncthreads();
      if (cursor->next_piece >= work.num_pieces) return kNowhere;
      __syncthreads();
      if (threadIdx.x < kWarpThreads) PlanBlocks<kBlockKeys>(common, work, cursor, plans + plan);
      __syncthreads();
    } while (plans[plan].num_blocks == 0);
    return plan * kWarpThreads;
  }
};

// Where a lane reads fragments in shared memory: of its warp's queries, and from the begin of a plane.
template <typename S>
struct LaneAddresses {
  uint32_t queries, keys, values;

  __device__ explicit LaneAddresses(const uint8_t* shared) {
    const int lane = static_cast<int>(threadIdx.x % kWarpThreads), warp = static_cast<int>(threadIdx.x / kWarpThreads);
    queries = SharedAddress(shared) + S::QueryTile::Offset(warp * S::kWarpRows + lane % 16, lane / 16);
    keys = S::Tile::Offset(lane % 8 + lane / 16 * 8, lane / 8 % 2);
    values = S::Tile::Offset(lane % 16, lane / 16);
  }
};

// Shared memory of blocks of keys and values: two planes of keys take turns, and five steps of values, of which the
// block at hand has two, the next two, and the step before the one of which weights are pending.
template <typename S>
struct PlaneRing {
  typename BlockCopier<S>::Target current;
  uint32_t planes;

  __device__ explicit PlaneRing(uint32_t begin)
      : current{begin, begin + 2 * S::kPlaneBytes, begin + 2 * S::kPlaneBytes + S::kStepBytes}, planes(begin) {}

  __device__ typename BlockCopier<S>::Target Next() const {
    return {2 * planes + S::kPlaneBytes - current.keys, Later(current.values), Later(current.late_values)};
  }

 private:
  __device__ uint32_t Later(uint32_t step) const {
    step += 2 * S::kStepBytes;
    return step < planes + 2 * S::kPlaneBytes + S::kValueSteps * S::kStepBytes ? step
                                                                               : step - S::kValueSteps * S::kStepBytes;
  }
};

// A warp's way through steps of keys. The values of a step stay to be added until the next one's scores are there.
template <typename S>
struct WarpFold {
  using BlockPlanes = typename BlockCopier<S>::Target;

  const AttentionCommon& common;
  const PrefillWork& work;
  const LaneAddresses<S> lane;
  const float scale_log2;
  const int first_row;   // of the thread block
  uint32_t pending = 0;  // where the values that are to be added begin, if any
  Accumulator<S> accumulator;

  // Folds a block of plain keys, while weights are pending. Returns how many steps it folded: two, unless other maxima
  // are due.
  template <typename Copies>
  __device__ __forceinline__ int FoldPlain(const BlockPlanes& at, const Copies& copies) {
    const int steps = accumulator.FoldBlock(
        {.queries = lane.queries, .keys = at.keys + lane.keys, .pending = pending, .values = at.values + lane.values},
        scale_log2, copies);
    pending = steps < 2 ? 0 : at.late_values + lane.values;
    return steps;
  }

  // Folds steps of any block, from `step` on.
  __device__ __forceinline__ void FoldAny(const PrefillPlan& plan, const PlanBlock& block, int step,
                                          const BlockPlanes& at) {
    const int warp_row = first_row + static_cast<int>(threadIdx.x / kWarpThreads) * S::kWarpRows;
    if (warp_row >= (work.last_query + 1) * work.num_heads) return;
    const int newest_query = work.Query(warp_row + S::kWarpRows - 1);
#pragma unroll 1
    for (; step < 2; ++step) {
      AddPending();
      const int slot = step * S::kKeyStep;
      if (block.sight != Sight::kAll) {
        const int first_key = block.first_delta + (block.sight == Sight::kContiguous ? slot : 0);
        if (slot >= block.tokens || first_key > newest_query) continue;
      }
      accumulator.Score(lane.queries, at.keys + lane.keys + step * S::kStepBytes);
      if (block.sight != Sight::kAll) {
        HideUnseen<S::kRowTiles, S::kKeyStep>(work, plan, block, warp_row, slot, accumulator.scores);
      }
      accumulator.WeighAnew(scale_log2);
      pending = lane.values + (step == 0 ? at.values : at.late_values);
    }
  }

  __device__ __forceinline__ void AddPending() {
    if (pending != 0) accumulator.AddWeighted(pending);
    pending = 0;
  }
};

// Folds the list's blocks from `current` on, whose copies were started into the ring's current planes. Every thread
// calls it.
template <typename S>
__device__ __forceinline__ void FoldBlocks(const BlockWalk<S::kBlockKeys>& walk, int current, PlaneRing<S> ring,
                                           uint8_t* shared, WarpFold<S>* fold) {
  const BlockCopier<S> copier(walk.common.cache);
  bool is_plain = false, is_last = current != walk.kNowhere && walk.Block(current).is_last;
  while (current != walk.kNowhere) {
    WaitForCopies<0>();
    __syncthreads();
    // The next block is copied while this one is in use.
    const auto next_planes = ring.Next();
    typename BlockCopier<S>::Whole whole;
    bool next_is_plain = false;
    const int next = is_last ? walk.Replan(current / kWarpThreads ^ 1) : current + 1;
    if (next != walk.kNowhere) {
      const PlanBlock& block = walk.Block(next);
      const int whole_row = block.whole_row;
      next_is_plain = block.is_plain;
      is_last = block.is_last;
      whole = copier.FindWhole(whole_row, next_planes);
      if (!copier.IsWhole(whole_row)) copier.CopyPieces(walk.Plan(next), next % kWarpThreads, next_planes);
    }
    int step = 0;
    if (is_plain && fold->pending != 0) {
      step = fold->FoldPlain(ring.current, whole);
    } else {
      whole.StartAll();
    }
    CommitCopies();
    if (step < 2) {
      const PlanBlock& block = walk.Block(current);
      if (block.turns_query) {
        WriteQueries<S>(walk.common, walk.work, fold->first_row, block.cap, shared);
        fold->accumulator.LoadQueries(fold->lane.queries);
      }
      fold->FoldAny(walk.Plan(current), block, step, ring.current);
    }
    ring.current = next_planes;
    current = next;
    is_plain = next_is_plain;
  }
  fold->AddPending();
}

template <typename S>
__global__ void __launch_bounds__(S::kThreads, S::kResident)
    PrefillKernel(const __grid_constant__ PrefillAttentionArgs args) {
  extern __shared__ __align__(128) uint8_t shared[];
  __shared__ PrefillWork work;
  __shared__ PlanCursor cursor;
  __shared__ PrefillPlan plans[2];
  __shared__ bool is_mine;
  const AttentionCommon& common = args.common;
  const Place place = FindPlace(args, S::kRows);
  WaitForPrevious();
  if (threadIdx.x < kWarpThreads) {
    const bool found = FindWork(args, place.tile, place.head, S::kBlockKeys, &work);
    if (threadIdx.x == 0) {
      is_mine = found && place.first_row < (work.last_query + 1) * work.num_heads;
      cursor = {.next_piece = 0, .cap = kFarAway};
    }
  }
  __syncthreads();
  LetNextStart();
  if (!is_mine) return;
  if (S::kCopiesQueries && common.activation == Activation::kBf16) {
    CopyQueries<S>(common, work, place.first_row, shared);
  }
  CommitCopies();
  const BlockWalk<S::kBlockKeys> walk = {.common = common, .work = work, .cursor = &cursor, .plans = plans};
  const PlaneRing<S> ring(SharedAddress(shared) + S::kQueryBytes);
  const int first = walk.Replan(0);
  if (first != walk.kNowhere) BlockCopier<S>(common.cache).CopyPieces(walk.Plan(first), 0, ring.current);
  CommitCopies();
  WarpFold<S> fold = {.common = common,
                      .work = work,
                      .lane = LaneAddresses<S>(shared),
                      .scale_log2 = common.scale * 1.44269504088896340736f,
                      .first_row = place.first_row};
  fold.accumulator.Reset();
  if (common.activation == Activation::kF32) {
    WriteQueries<S>(common, work, place.first_row, kFarAway, shared);
  } else if (!S::kCopiesQueries) {
    ConvertQueries<S>(common, work, place.first_row, shared);
  }
  WaitForCopies<1>();
  __syncwarp();
  fold.accumulator.LoadQueries(fold.lane.queries);
  FoldBlocks<S>(walk, first, ring, shared, &fold);
  const int warp_row = place.first_row + static_cast<int>(threadIdx.x / kWarpThreads) * S::kWarpRows;
  if (warp_row < (work.last_query + 1) * work.num_heads) {
    WriteResults<S>(common, work, place.first_row, fold.accumulator, shared);
  }
}

template <typename S>
cudaError_t Launch(const PrefillAttentionArgs& args, cudaStream_t stream) {
  static const cudaError_t allowed =
      cudaFuncSetAttribute(PrefillKernel<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, S::kSharedBytes);
  if (allowed != cudaSuccess) return allowed;
  const int64_t blocks = args.num_tiles * args.common.num_heads * (kPrefillTileQueries / S::kRows);
  return LaunchKernel(PrefillKernel<S>, dim3(static_cast<unsigned>(blocks)), dim3(S::kThreads), S::kSharedBytes, stream,
                      args);
}

template <typename Element>
cudaError_t LaunchPrefill(const PrefillAttentionArgs& args, cudaStream_t stream) {
  switch (args.common.cache.head_dim) {
    case 64:
      return Launch<PrefillShape<Element, 64, 4, 2, 4, 2>>(args, stream);
    case 80:
      return Launch<PrefillShape<Element, 80, 4, 2, 0, 2>>(args, stream);
    case 96:
      return Launch<PrefillShape<Element, 96, 4, 2, 0, 2>>(args, stream);
    case 128:
      return Launch<PrefillShape<Element, 128, 4, 2, 0, 2>>(args, stream);
    case 256:
      return Launch<PrefillShape<Element, 256, 8, 1, 0, 1>>(args, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace farspan::kernels::cuda
