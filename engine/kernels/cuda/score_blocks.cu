// SPDX-License-Identifier: Apache-2.0
// The largest dot product that a query can have with a key within a block's bounds: a stream over the bounds, each read
// once for all query heads of the group.
#include <algorithm>

#include "engine/kernels/cuda/extremes.cuh"
#include "engine/kernels/cuda/kernels.h"
#include "engine/kernels/cuda/select_blocks.cuh"

namespace farspan::kernels::cuda {
namespace {

constexpr int kThreads = 256, kBlocksPerLane = 2;
constexpr int kHeadsAtOnce = 4;
constexpr int kValues = kBlocksPerLane * kHeadsAtOnce;

// Lanes that score a block together, eight channels each.
constexpr int LanesOf(int64_t head_dim) { return head_dim <= 64 ? 8 : head_dim <= 128 ? 16 : 32; }

// What scoring needs of a row.
struct ScoredRow {
  const KvEntry* context;
  int num_blocks, block_tokens;
};

__device__ ScoredRow LoadRow(const SelectBlocksArgs& args, const SelectorRow& row) {
  const bool chooses = row.num_picked != 0 && !IsDenseLayer(row, args.layer);
  return {args.entries + row.context.entries_begin, chooses ? static_cast<int>(row.num_blocks) : 0,
          static_cast<int>(row.block_tokens)};
}

// Pairs of bounds that make up a block's: of runs of one page, which lie side by side, or of whole pages.
struct BlockPairs {
  const KvEntry* pages;  // of whole pages, else null
  int64_t first;         // element offset of the first pair
  int count;
};

__device__ BlockPairs PairsOf(const SelectBlocksArgs& args, const ScoredRow& row, int64_t kv_head, int block) {
  const KvLayerView& cache = args.cache;
  const int page_tokens = static_cast<int>(cache.page_tokens);
  if (row.block_tokens >= page_tokens) {
    const int pages = row.block_tokens / page_tokens;
    const KvEntry* const first = row.context + static_cast<int64_t>(block) * pages;
    return {first, PageBoundsOffset(cache, first->page, kv_head), pages};
  }
  const int runs = row.block_tokens / static_cast<int>(KeyBoundsTokens(page_tokens));
  const int blocks_per_page = page_tokens / row.block_tokens;
  const int64_t page = row.context[block / blocks_per_page].page;
  return {nullptr, RunBoundsOffset(cache, page, kv_head, block % blocks_per_page * runs), runs};
}

// Element offset of a pair but the first.
__device__ int64_t OffsetOf(const SelectBlocksArgs& args, const BlockPairs& pairs, int64_t kv_head, int index) {
  if (pairs.pages == nullptr) return pairs.first + index * 2 * args.cache.head_dim;
  return PageBoundsOffset(args.cache, pairs.pages[index].page, kv_head);
}

// The bounds of eight channels of a block.
template <typename Element>
__device__ Extremes8<Element> LoadBlock(const SelectBlocksArgs& args, const BlockPairs& pairs, int64_t kv_head,
                                        int channel) {
  const Element* const bounds = static_cast<const Element*>(args.bounds.data) + channel;
  Extremes8<Element> extremes = LoadBounds(bounds + pairs.first, args.cache.head_dim);
  for (int i = 1; i < pairs.count; ++i) {
    Widen(LoadBounds(bounds + OffsetOf(args, pairs, kv_head, i), args.cache.head_dim), &extremes);
  }
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
  for (int i = threadIdx.x; i < num_values; i += kThreads) {
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
  for (int head = threadIdx.x / kWarpThreads; head < memory.group; head += kThreads / kWarpThreads) {
    float* const out = memory.ScoresOf(pair, head) + begin;
    const float* const own = scores + head * kLargestTileBlocks;
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
__global__ void __launch_bounds__(kThreads, 4) ScoreKernel(SelectBlocksArgs args, ScoreMemory memory) {
  constexpr int kGroups = kThreads / kLanes, kTileBlocks = kGroups * kBlocksPerLane;
  __shared__ float scores[kMaxGroup * kLargestTileBlocks];
  extern __shared__ float queries[];  // [group][head_dim]
  LetNextStart();
  const ScoredRow row = LoadRow(args, args.rows[blockIdx.z]);
  const int64_t kv_head = blockIdx.y, pair = blockIdx.z * args.cache.num_kv_heads + kv_head;
  const int64_t first_query = args.rows[blockIdx.z].row * args.num_heads + kv_head * memory.group;
  WaitForPrevious();
  if (static_cast<int>(blockIdx.x) * kTileBlocks >= row.num_blocks) return;
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
        bounds[i] = LoadBlock<Element>(args, PairsOf(args, row, kv_head, block), kv_head, channel);
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
        scores[head * kLargestTileBlocks + value / kHeadsAtOnce * kGroups + lane_group] = score;
      }
    }
    __syncthreads();
    StoreTile(memory, pair, tile, kTileBlocks, row.num_blocks, scores);
    __syncthreads();
  }
}

// Of two bf16 at a time, NaN where one is.
__device__ uint32_t NotAbove(uint32_t values, uint32_t limit) { return MinOrNan<__nv_bfloat162>(values, limit); }
__device__ uint32_t NotBelow(uint32_t values, uint32_t limit) { return MaxOrNan<__nv_bfloat162>(values, limit); }

// Infinities become the largest finite values, since the queries' zeros meet them in sums.
__device__ uint32_t Finite(uint32_t values) { return NotAbove(NotBelow(values, 0xff7fff7fu), 0x7f7f7f7fu); }

// sums += a b: a of 16 query heads by 16 channels, b of 16 channels by 8 blocks.
__device__ void Multiply(uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1,
                         float (&sums)[4]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// sums += the products of eight channels a lane, one bound of each block with the part of the queries that meets it.
template <bool kLargest>
__device__ void MultiplyBounds(const uint4& low_heads, const uint4& high_heads, const uint4& bounds, float (&sums)[4]) {
  const auto part = [](uint32_t q) { return kLargest ? NotBelow(q, 0u) : NotAbove(q, 0u); };
  Multiply(part(low_heads.x), part(high_heads.x), part(low_heads.y), part(high_heads.y), Finite(bounds.x),
           Finite(bounds.y), sums);
  Multiply(part(low_heads.z), part(high_heads.z), part(low_heads.w), part(high_heads.w), Finite(bounds.z),
           Finite(bounds.w), sums);
}

// Writes the scores of two neighbouring blocks of one query head, and what the eight of its four lanes sum to.
__device__ void StoreHead(const ScoreMemory& memory, int64_t pair, int head, int tile, int num_blocks, float first,
                          float second) {
  const int column = 2 * (threadIdx.x % 4), block = tile * kSmallestTileBlocks + column;
  const bool has_first = block < num_blocks, has_second = block + 1 < num_blocks;
  float maximum = has_first ? fmaxf(-INFINITY, first) : -INFINITY;
  if (has_second) maximum = fmaxf(maximum, second);
  maximum = fmaxf(maximum, __shfl_xor_sync(kWholeWarp, maximum, 1));
  maximum = fmaxf(maximum, __shfl_xor_sync(kWholeWarp, maximum, 2));
  const float base = maximum == -INFINITY ? 0.0f : maximum;
  float sum = (has_first ? expf(first - base) : 0.0f) + (has_second ? expf(second - base) : 0.0f);
  sum += __shfl_xor_sync(kWholeWarp, sum, 1);
  sum += __shfl_xor_sync(kWholeWarp, sum, 2);
  if (head >= memory.group) return;
  *reinterpret_cast<float2*>(memory.ScoresOf(pair, head) + block) = make_float2(first, second);
  if (column == 0) memory.PartialsOf(pair, head)[tile] = {maximum, sum};
}

constexpr int kProductThreads = 128, kProductHeads = 16, kSpanChannels = 32;

// With q+ = max(q, 0) and q- = min(q, 0) a score is q+ . largest + q- . smallest: a matrix product of the group's
// queries and eight blocks' bounds, a warp each, in which channels stand in the order that lanes load them.
// Neighbouring warps take neighbouring KV heads of the same blocks, whose bounds are neighbours in memory.
template <int kSpans>
__global__ void __launch_bounds__(kProductThreads, kSpans <= 4 ? 5 : 4)
    ScoreByProductsKernel(SelectBlocksArgs args, ScoreMemory memory, int heads_per_block) {
  using Element = __nv_bfloat16;
  LetNextStart();
  const int lane = threadIdx.x % kWarpThreads, warp = threadIdx.x / kWarpThreads;
  const int warps_per_head = kProductThreads / kWarpThreads / heads_per_block;
  const ScoredRow row = LoadRow(args, args.rows[blockIdx.z]);
  const int64_t kv_head = blockIdx.y * heads_per_block + warp % heads_per_block;
  const int64_t pair = blockIdx.z * args.cache.num_kv_heads + kv_head;
  const int64_t first_query = args.rows[blockIdx.z].row * args.num_heads + kv_head * memory.group;
  const int channel = lane % 4 * kVectorValues, lane_row = lane / 4;
  const int tile_step = gridDim.x * warps_per_head, group = static_cast<int>(memory.group);
  int tile = blockIdx.x * warps_per_head + warp / heads_per_block;
  const auto pairs_of = [&](int of_tile) {  // those of the last block where there is none
    return PairsOf(args, row, kv_head, min(of_tile * kSmallestTileBlocks + lane_row, row.num_blocks - 1));
  };
  BlockPairs pairs = {};
  if (tile * kSmallestTileBlocks < row.num_blocks) pairs = pairs_of(tile);
  WaitForPrevious();
  for (; tile * kSmallestTileBlocks < row.num_blocks; tile += tile_step) {
    Extremes8<Element> bounds[kSpans];
#pragma unroll
    for (int i = 0; i < kSpans; ++i) {
      bounds[i] = LoadBlock<Element>(args, pairs, kv_head, channel + i * kSpanChannels);
    }
    const int next = tile + tile_step;
    if (next * kSmallestTileBlocks < row.num_blocks) pairs = pairs_of(next);
    for (int first_head = 0; first_head < group; first_head += kProductHeads) {
      const int low_head = first_head + lane_row, high_head = low_head + kProductHeads / 2;
      const Element* const queries = static_cast<const Element*>(args.q) + first_query * kSpans * kSpanChannels;
      float by_smallest[4] = {}, by_largest[4] = {};
#pragma unroll
      for (int i = 0; i < kSpans; ++i) {
        const Element* const q = queries + channel + i * kSpanChannels;
        uint4 low = {}, high = {};
        if (low_head < group) low = *reinterpret_cast<const uint4*>(q + low_head * kSpans * kSpanChannels);
        if (high_head < group) high = *reinterpret_cast<const uint4*>(q + high_head * kSpans * kSpanChannels);
        MultiplyBounds<false>(low, high, bounds[i].smallest, by_smallest);
        MultiplyBounds<true>(low, high, bounds[i].largest, by_largest);
      }
      StoreHead(memory, pair, low_head, tile, row.num_blocks, by_smallest[0] + by_largest[0],
                by_smallest[1] + by_largest[1]);
      if (first_head + kProductHeads / 2 < group) {
        StoreHead(memory, pair, high_head, tile, row.num_blocks, by_smallest[2] + by_largest[2],
                  by_smallest[3] + by_largest[3]);
      }
    }
  }
}

using ScoreFunction = void (*)(SelectBlocksArgs, ScoreMemory, int);

// Null where the shape has none.
ScoreFunction ProductKernel(const SelectBlocksArgs& args) {
  if (args.activation != Activation::kBf16 || args.cache.element != KvElement::kBf16) return nullptr;
  switch (args.cache.head_dim) {
    case 64:
      return ScoreByProductsKernel<2>;
    case 96:
      return ScoreByProductsKernel<3>;
    case 128:
      return ScoreByProductsKernel<4>;
    case 256:
      return ScoreByProductsKernel<8>;
    default:
      return nullptr;
  }
}

}  // namespace

int ScoreTileBlocks(const SelectBlocksArgs& args) {
  if (ProductKernel(args) != nullptr) return kSmallestTileBlocks;
  return kThreads / LanesOf(args.cache.head_dim) * kBlocksPerLane;
}

cudaError_t LaunchScoreBlocks(const SelectBlocksArgs& args, const ScoreMemory& memory, cudaStream_t stream) {
  // As many thread blocks as run at once, and at least a few a row, since rows may differ in length.
  const int64_t num_kv_heads = args.cache.num_kv_heads;
  const auto grid = [&](int64_t blocks_per_multiprocessor, int64_t heads_per_block, int64_t tiles_per_block) {
    constexpr int64_t kFewestSplits = 8;
    const int64_t resident = blocks_per_multiprocessor * CurrentDeviceTraits().num_multiprocessors;
    const int64_t splits = std::max(resident / (args.num_rows * num_kv_heads / heads_per_block), kFewestSplits);
    const int64_t most = (memory.max_blocks / memory.tile_blocks + tiles_per_block - 1) / tiles_per_block;
    return dim3(static_cast<unsigned>(std::min(splits, most)), static_cast<unsigned>(num_kv_heads / heads_per_block),
                static_cast<unsigned>(args.num_rows));
  };
  if (const ScoreFunction products = ProductKernel(args); products != nullptr) {
    const int heads_per_block = num_kv_heads % 4 == 0 ? 4 : num_kv_heads % 2 == 0 ? 2 : 1;
    return LaunchKernel(products, grid(5, heads_per_block, kProductThreads / kWarpThreads / heads_per_block),
                        kProductThreads, 0, stream, args, memory, heads_per_block);
  }
  const auto shared_bytes = static_cast<size_t>(memory.group * args.cache.head_dim) * sizeof(float);
  return WithKvElement(args.cache.element, [&]<typename Element>() {
    const int lanes = LanesOf(args.cache.head_dim);
    const auto kernel = lanes == 8    ? ScoreKernel<Element, 8>
                        : lanes == 16 ? ScoreKernel<Element, 16>
                                      : ScoreKernel<Element, 32>;
    return LaunchKernel(kernel, grid(4, 1, 1), kThreads, shared_bytes, stream, args, memory);
  });
}

}  // namespace farspan::kernels::cuda
