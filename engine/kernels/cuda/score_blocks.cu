// SPDX-License-Identifier: Apache-2.0
// The largest dot product that a query can have with a key within a block's bounds: a stream over the bounds, each read
// once for all query heads of the group.
#include <algorithm>

#include "engine/kernels/cuda/extremes.cuh"
#include "engine/kernels/cuda/kernels.h"
#include "engine/kernels/cuda/select_blocks.cuh"

namespace farspan::kernels::cuda {
namespace {

constexpr int kHeadsAtOnce = 4;
constexpr int kValues = kBlocksPerLane * kHeadsAtOnce;

// What a thread block needs of its row.
struct ScoredRow {
  const KvEntry* context;
  int num_blocks, block_tokens;
};

// The bounds of a block's eight channels, those of all its runs or pages combined.
template <typename Element>
__device__ Extremes8<Element> LoadBlock(const SelectBlocksArgs& args, const ScoredRow& row, int64_t kv_head, int block,
                                        int channel) {
  const KvLayerView& cache = args.cache;
  const Element* const bounds = static_cast<const Element*>(args.bounds.data) + channel;
  const int page_tokens = static_cast<int>(cache.page_tokens), head_dim = static_cast<int>(cache.head_dim);
  if (row.block_tokens >= page_tokens) {
    const int pages = row.block_tokens / page_tokens;
    const KvEntry* entry = row.context + static_cast<int64_t>(block) * pages;
    Extremes8<Element> extremes = LoadBounds(bounds + PageBoundsOffset(cache, entry->page, kv_head), head_dim);
    for (int i = 1; i < pages; ++i) {
      Widen(LoadBounds(bounds + PageBoundsOffset(cache, entry[i].page, kv_head), head_dim), &extremes);
    }
    return extremes;
  }
  const int run_tokens = static_cast<int>(KeyBoundsTokens(page_tokens)),
            blocks_per_page = page_tokens / row.block_tokens;
  const int runs = row.block_tokens / run_tokens;
  const int64_t page = row.context[block / blocks_per_page].page;
  const Element* pair = bounds + RunBoundsOffset(cache, page, kv_head, block % blocks_per_page * runs);
  Extremes8<Element> extremes = LoadBounds(pair, head_dim);
  for (int i = 1; i < runs; ++i) Widen(LoadBounds(pair + i * 2 * head_dim, head_dim), &extremes);
  return extremes;
}

// Adds each of kValues values over kLanes lanes, in one order. Lane l gets the sum of value l / (kLanes / kValues).
template <int kLanes>
__device__ float SumOverLanes(float (&values)[kValues], int lane) {
#pragma unroll
  for (int count = kValues / 2, offset = kLanes / 2; count > 0; count /= 2, offset /= 2) {
    const bool upper = (lane & offset) != 0;
#pragma unroll
    for (int i = 0; i < count; ++i) {
      const float sent = upper ? values[i] : values[i + count], kept = upper ? values[i + count] : values[i];
      values[i] = kept + __shfl_xor_sync(kWholeWarp, sent, offset);
    }
  }
#pragma unroll
  for (int offset = kLanes / kValues / 2; offset > 0; offset /= 2) {
    values[0] += __shfl_xor_sync(kWholeWarp, values[0], offset);
  }
  return values[0];
}

__device__ void LoadQueries(const SelectBlocksArgs& args, int64_t first_head, int num_values, float* queries) {
  const int64_t first = first_head * args.cache.head_dim;
  for (int i = threadIdx.x; i < num_values; i += kScoreThreads) {
    queries[i] = args.activation == Activation::kF32
                     ? static_cast<const float*>(args.q)[first + i]
                     : __bfloat162float(static_cast<const __nv_bfloat16*>(args.q)[first + i]);
  }
}

// Writes a tile's scores and, a warp a head, what its exponentials sum to.
__device__ void StoreTile(const ScoreMemory& memory, int64_t pair, int tile, int tile_blocks, int num_blocks,
                          const float* scores) {
  const int lane = threadIdx.x % kWarpThreads;
  const int begin = tile * tile_blocks, count = min(tile_blocks, num_blocks - begin);
  for (int head = threadIdx.x / kWarpThreads; head < memory.group; head += kScoreThreads / kWarpThreads) {
    float* const out = memory.ScoresOf(pair, head) + begin;
    const float* const own = scores + head * kMaxScoreTileBlocks;
    float maximum = -INFINITY, sum = 0;
    for (int i = lane; i < count; i += kWarpThreads) {
      out[i] = own[i];
      maximum = fmaxf(maximum, own[i]);
    }
    for (int offset = kWarpThreads / 2; offset > 0; offset /= 2) {
      maximum = fmaxf(maximum, __shfl_xor_sync(kWholeWarp, maximum, offset));
    }
    const float base = maximum == -INFINITY ? 0.0f : maximum;
    for (int i = lane; i < count; i += kWarpThreads) sum += expf(own[i] - base);
    sum = WarpSum(sum);
    if (lane == 0) memory.PartialsOf(pair, head)[tile] = {maximum, sum};
  }
}

// A grid of [splits][KV heads][rows]; a thread block takes every gridDim.x-th tile of its row.
template <typename Element, int kLanes>
__global__ void __launch_bounds__(kScoreThreads, 4) ScoreKernel(SelectBlocksArgs args, ScoreMemory memory) {
  constexpr int kGroups = kScoreThreads / kLanes, kTileBlocks = kGroups * kBlocksPerLane;
  __shared__ float scores[kMaxGroup * kMaxScoreTileBlocks];
  extern __shared__ float queries[];  // [group][head_dim]
  LetNextStart();
  const SelectorRow& full_row = args.rows[blockIdx.z];
  const ScoredRow row = {args.entries + full_row.context.entries_begin, static_cast<int>(full_row.num_blocks),
                         static_cast<int>(full_row.block_tokens)};
  const bool chooses = full_row.num_picked != 0 && !IsDenseLayer(full_row, args.layer);
  const int64_t kv_head = blockIdx.y, pair = blockIdx.z * args.cache.num_kv_heads + kv_head;
  const int64_t first_query = full_row.row * args.num_heads + kv_head * memory.group;
  WaitForPrevious();
  if (!chooses || static_cast<int>(blockIdx.x) * kTileBlocks >= row.num_blocks) return;
  const int head_dim = static_cast<int>(args.cache.head_dim), group = static_cast<int>(memory.group);
  const int lane = threadIdx.x % kLanes, lane_group = threadIdx.x / kLanes, channel = lane * kVectorValues;
  LoadQueries(args, first_query, group * head_dim, queries);
  __syncthreads();
  for (int tile = blockIdx.x; tile * kTileBlocks < row.num_blocks; tile += gridDim.x) {
    Extremes8<Element> bounds[kBlocksPerLane] = {};
#pragma unroll
    for (int i = 0; i < kBlocksPerLane; ++i) {
      const int block = tile * kTileBlocks + i * kGroups + lane_group;
      if (block < row.num_blocks && channel < head_dim) {
        bounds[i] = LoadBlock<Element>(args, row, kv_head, block, channel);
      }
    }
    for (int first_head = 0; first_head < group; first_head += kHeadsAtOnce) {
      float values[kValues] = {};
#pragma unroll
      for (int head = 0; head < kHeadsAtOnce; ++head) {
        if (first_head + head >= group || channel >= head_dim) continue;
        const Values8 q = Load8(queries + (first_head + head) * head_dim + channel);
#pragma unroll
        for (int i = 0; i < kBlocksPerLane; ++i) {
          const Values8 smallest = Smallest(bounds[i]), largest = Largest(bounds[i]);
          float& value = values[i * kHeadsAtOnce + head];
#pragma unroll
          for (int j = 0; j < kVectorValues; ++j) {
            value = fmaf(q.at[j], q.at[j] < 0 ? smallest.at[j] : largest.at[j], value);
          }
        }
      }
      const float score = SumOverLanes<kLanes>(values, lane);
      const int value = lane / (kLanes / kValues), head = first_head + value % kHeadsAtOnce;
      if (lane % (kLanes / kValues) == 0 && head < group) {
        scores[head * kMaxScoreTileBlocks + value / kHeadsAtOnce * kGroups + lane_group] = score;
      }
    }
    __syncthreads();
    StoreTile(memory, pair, tile, kTileBlocks, row.num_blocks, scores);
    __syncthreads();
  }
}

}  // namespace

cudaError_t LaunchScoreBlocks(const SelectBlocksArgs& args, const ScoreMemory& memory, cudaStream_t stream) {
  // As many thread blocks as run at once, and at least a few a row, since rows may differ in length.
  constexpr int64_t kBlocksPerMultiprocessor = 4, kFewestSplits = 8;
  const int64_t pairs = args.num_rows * args.cache.num_kv_heads;
  const int64_t resident = kBlocksPerMultiprocessor * CurrentDeviceTraits().num_multiprocessors;
  const int64_t splits = std::min(std::max(resident / pairs, kFewestSplits), memory.max_tiles);
  const dim3 grid(static_cast<unsigned>(splits), static_cast<unsigned>(args.cache.num_kv_heads),
                  static_cast<unsigned>(args.num_rows));
  const auto shared_bytes = static_cast<size_t>(memory.group * args.cache.head_dim) * sizeof(float);
  return WithKvElement(args.cache.element, [&]<typename Element>() {
    const int lanes = ScoreLanes(args.cache.head_dim);
    const auto kernel = lanes == 8    ? ScoreKernel<Element, 8>
                        : lanes == 16 ? ScoreKernel<Element, 16>
                                      : ScoreKernel<Element, 32>;
    return LaunchKernel(kernel, grid, kScoreThreads, shared_bytes, stream, args, memory);
  });
}

}  // namespace farspan::kernels::cuda
