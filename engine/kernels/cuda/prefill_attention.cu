// SPDX-License-Identifier: Apache-2.0
// Prefill attention by warp-level matrix products, for sm_80 and later. A thread block holds 128 rows of queries (64
// for long heads), a warp 32 (16) of them; keys and values come in blocks of 64 (32) tokens, gathered from the list's
// pages, the next block while this one is used.
#include "engine/kernels/cuda/prefill_attention.h"

#include "engine/kernels/cuda/device.cuh"
#include "engine/kernels/cuda/kernels.h"
#include "engine/kernels/cuda/matrix_fragments.cuh"
#include "engine/kernels/cuda/prefill_accumulator.cuh"
#include "engine/kernels/cuda/prefill_plan.cuh"
#include "engine/kernels/cuda/prefill_rows.cuh"
#include "engine/kernels/cuda/prefill_work.cuh"

namespace farspan::kernels::cuda {
namespace {

constexpr float kLog2E = 1.44269504088896340736f;

// A thread block's way through its list. `plan` alternates, so that the block of keys in use keeps its pieces while
// later ones are planned.
template <int kBlockKeys>
struct BlockWalk {
  const AttentionCommon& common;
  const PrefillWork& work;
  PlanCursor* cursor;
  PrefillPlan* plans;  // 2
  int plan = 1;
  int index = 0;
  int num_blocks = 0;

  // Moves to the next block that the tile sees; false at the list's end. Every thread calls it.
  __device__ bool Next() {
    if (++index < num_blocks) return true;
    plan ^= 1;
    index = 0;
    do {
      __syncthreads();
      if (cursor->next_piece >= work.num_pieces) return false;
      __syncthreads();
      if (threadIdx.x < kWarpThreads) PlanBlocks<kBlockKeys>(common, work, cursor, plans + plan);
      __syncthreads();
      num_blocks = plans[plan].num_blocks;
    } while (num_blocks == 0);
    return true;
  }
};

// Where a lane reads fragments in shared memory.
template <typename S>
struct LaneAddresses {
  uint32_t queries, keys, values;  // the latter two from the stage's begin

  __device__ explicit LaneAddresses(const uint8_t* shared) {
    const int lane = static_cast<int>(threadIdx.x % kWarpThreads), warp = static_cast<int>(threadIdx.x / kWarpThreads);
    queries = SharedAddress(shared) + S::Tile::Offset(warp * S::kWarpRows + lane % 16, lane / 16);
    keys = S::Tile::Offset(lane % 8 + lane / 16 * 8, lane / 8 % 2);
    values = S::kPlaneBytes + S::Tile::Offset(lane % 16, lane / 16);
  }
};

// Folds a block of keys that all queries see into the warp's rows. Scores of the second half are computed while the
// first's become weights; the arithmetic is FoldBlock's.
template <typename S>
__device__ __forceinline__ void FoldWholeBlock(const LaneAddresses<S>& lane, uint32_t stage, float scale_log2,
                                               Accumulator<S>* accumulator) {
  constexpr int kStepBytes = S::kKeyStep * S::Tile::kRowBytes;
  float first[S::kRowTiles][S::kKeyStep / 8][4] = {}, second[S::kRowTiles][S::kKeyStep / 8][4] = {};
  accumulator->template Score<0>(lane.queries, stage + lane.keys, first);
  accumulator->template Score<0>(lane.queries, stage + lane.keys + kStepBytes, second);
  if (__builtin_expect(!accumulator->Weigh(scale_log2, first), 0)) {
    accumulator->ScoreAnew(lane.queries, stage + lane.keys, scale_log2, first);
  }
  accumulator->AddWeighted(stage + lane.values, first);
  if (__builtin_expect(!accumulator->Weigh(scale_log2, second), 0)) {
    accumulator->ScoreAnew(lane.queries, stage + lane.keys + kStepBytes, scale_log2, second);
  }
  accumulator->AddWeighted(stage + lane.values + kStepBytes, second);
}

// Folds a block of keys into the warp's rows, which begin at `warp_row`, a step of keys at a time.
template <typename S>
__device__ __forceinline__ void FoldBlock(const PrefillWork& work, const PrefillPlan& plan, const PlanBlock& block,
                                          const LaneAddresses<S>& lane, uint32_t stage, int warp_row, float scale_log2,
                                          Accumulator<S>* accumulator) {
  const bool sees_all = block.sight == Sight::kAll;
  if constexpr (S::kBlockKeys == 2 * S::kKeyStep) {
    if (sees_all) return FoldWholeBlock<S>(lane, stage, scale_log2, accumulator);
  }
  const int newest_query = work.Query(warp_row + S::kWarpRows - 1);  // of the warp
#pragma unroll 1
  for (int slot = 0; slot < S::kBlockKeys; slot += S::kKeyStep) {
    const int first_key = block.first_delta + (block.sight == Sight::kContiguous ? slot : 0);
    if (!sees_all && (slot >= block.tokens || first_key > newest_query)) break;
    const uint32_t keys = stage + lane.keys + slot * S::Tile::kRowBytes;
    float scores[S::kRowTiles][S::kKeyStep / 8][4] = {};
    accumulator->template Score<0>(lane.queries, keys, scores);
    if (!sees_all) {
      HideUnseen<S::kRowTiles, S::kKeyStep>(work, plan, block, warp_row, slot, scores);
      accumulator->WeighAnew(scale_log2, scores);
    } else if (!accumulator->Weigh(scale_log2, scores)) {
      accumulator->ScoreAnew(lane.queries, keys, scale_log2, scores);
    }
    accumulator->AddWeighted(stage + lane.values + slot * S::Tile::kRowBytes, scores);
  }
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
  const int warp_row = place.first_row + static_cast<int>(threadIdx.x / kWarpThreads) * S::kWarpRows;
  const bool has_queries = warp_row < (work.last_query + 1) * work.num_heads;
  const LaneAddresses<S> lane(shared);
  const uint32_t stages = SharedAddress(shared) + S::kQueryBytes;
  uint32_t stage = stages;
  const bool copies_queries = S::kCopiesQueries && common.activation == Activation::kBf16;
  if (copies_queries) CopyQueries<S>(common, work, place.first_row, shared);
  CommitCopies();
  BlockWalk<S::kBlockKeys> walk = {.common = common, .work = work, .cursor = &cursor, .plans = plans};
  bool more = walk.Next();
  if (more) CopyBlock<S>(common.cache, plans[walk.plan], walk.index, stage);
  CommitCopies();
  Accumulator<S> accumulator;
  accumulator.Reset();
  if (!copies_queries) WriteQueries<S>(common, work, place.first_row, kFarAway, shared);
  WaitForCopies<1>();
  __syncwarp();
  accumulator.LoadQueries(lane.queries);
  const float scale_log2 = common.scale * kLog2E;
  while (more) {
    const PrefillPlan& plan = plans[walk.plan];
    const PlanBlock& block = plan.blocks[walk.index];
    WaitForCopies<0>();
    __syncthreads();
    const uint32_t current = stage;
    stage = stage == stages ? stages + 2 * S::kPlaneBytes : stages;
    more = walk.Next();
    if (more) CopyBlock<S>(common.cache, plans[walk.plan], walk.index, stage);
    CommitCopies();
    if (block.turns_query) {
      WriteQueries<S>(common, work, place.first_row, block.cap, shared);
      accumulator.LoadQueries(lane.queries);
    }
    if (has_queries) FoldBlock<S>(work, plan, block, lane, current, warp_row, scale_log2, &accumulator);
  }
  if (has_queries) WriteResults<S>(common, work, place.first_row, accumulator, shared);
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

}  // namespace

bool PortablePrefillSupports(const PrefillAttentionArgs& args) {
  const KvLayerView& cache = args.common.cache;
  const int64_t rows = cache.num_pages * cache.num_kv_heads * 2 * cache.page_tokens, head_dim = cache.head_dim;
  return cache.element == KvElement::kBf16 && rows < (int64_t{1} << 31) && cache.page_tokens <= kMaxPageTokens &&
         args.common.scale > 0 && args.common.rope_dim % 2 == 0 &&
         (head_dim == 64 || head_dim == 80 || head_dim == 96 || head_dim == 128 || head_dim == 256);
}

cudaError_t LaunchPortablePrefillAttention(const PrefillAttentionArgs& args, cudaStream_t stream) {
  if (!PortablePrefillSupports(args)) return cudaErrorInvalidValue;
  if (args.num_tiles == 0) return cudaSuccess;
  switch (args.common.cache.head_dim) {
    case 64:
      return Launch<PrefillShape<Bf16Element, 64, 2, 64, 32, 4>>(args, stream);
    case 80:
      return Launch<PrefillShape<Bf16Element, 80, 2, 64, 32, 0>>(args, stream);
    case 96:
      return Launch<PrefillShape<Bf16Element, 96, 2, 64, 32, 0>>(args, stream);
    case 128:
      return Launch<PrefillShape<Bf16Element, 128, 2, 64, 32, 0>>(args, stream);
    default:
      return Launch<PrefillShape<Bf16Element, 256, 1, 32, 32, 0>>(args, stream);
  }
}

cudaError_t LaunchPrefillAttention(const PrefillAttentionArgs& args, cudaStream_t stream) {
  // Where activations are float32, so is the arithmetic.
  if (args.common.activation == Activation::kBf16 && PortablePrefillSupports(args)) {
    return LaunchPortablePrefillAttention(args, stream);
  }
  return LaunchPlainPrefillAttention(args, stream);
}

}  // namespace farspan::kernels::cuda
