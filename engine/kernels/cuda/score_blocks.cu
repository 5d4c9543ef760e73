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

constexpr int kProductThreads = 128, kProductWarps = kProductThreads / kWarpThreads;
constexpr int kProductHeads = 16, kSpanChannels = 32;
constexpr int kTile = kSmallestTileBlocks;
constexpr int kRingBytes = 8192;  // of a warp

// Of 16 bytes, past L1. Copies are waited for in the groups that they are closed in.
__device__ void CopyVector(uint32_t to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
__device__ void CloseCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kNewerGroups>
__device__ void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kNewerGroups) : "memory");
}

// One warp's tiles of a (row, KV head), every `tile_step`-th. A stage is a pair of bounds of each block of a tile; it
// is copied ahead into the warp's own ring, whole pairs at a time, and read there as a product wants it. With q+ =
// max(q, 0) and q- = min(q, 0) a score is q+ . largest + q- . smallest: a matrix product of the group's queries and
// eight blocks' bounds, in which channels stand in the order that lanes load them.
template <int kSpans>
class TileScorer {
 public:
  using Element = __nv_bfloat16;
  static constexpr int kDim = kSpans * kSpanChannels;
  static constexpr int kStageBytes = kTile * kDim * 4;
  static constexpr int kStages = kRingBytes / kStageBytes;

  __device__ TileScorer(const SelectBlocksArgs& args, const ScoreMemory& memory, const ScoredRow& row, int kv_head,
                        int first_tile, int tile_step, uint8_t* ring)
      : args_(args),
        memory_(memory),
        row_(row),
        group_(static_cast<int>(memory.group)),
        first_tile_(first_tile),
        tile_step_(tile_step),
        lane_(threadIdx.x % kWarpThreads),
        ring_(static_cast<uint32_t>(__cvta_generic_to_shared(ring))),
        page_tokens_(static_cast<int>(args.cache.page_tokens)),
        block_pairs_(row.block_tokens / static_cast<int>(KeyBoundsTokens(page_tokens_, row.block_tokens))),
        num_stages_(NumTiles() * block_pairs_),
        page_pairs_(static_cast<int>(PageBoundsOffset(args.cache, 1, 0) - PageBoundsOffset(args.cache, 0, 0)) /
                    (2 * kDim)),
        first_pair_(static_cast<int>(row.block_tokens < page_tokens_ ? RunBoundsOffset(args.cache, 0, kv_head, 0)
                                                                     : PageBoundsOffset(args.cache, 0, kv_head)) /
                    (2 * kDim)),
        next_pairs_(LoadPairs(0)) {}

  // Brings what the first stages read nearer. Kernels ahead may still write it, so nothing is kept of it.
  __device__ void Prefetch() const {
    if (lane_ >= kTile * kStages || lane_ / kTile >= num_stages_) return;
    const uint8_t* const pair = BoundsOf(next_pairs_);
#pragma unroll
    for (int byte = 0; byte < kDim * 4; byte += 128) asm volatile("prefetch.global.L2 [%0];" ::"l"(pair + byte));
  }

  // `queries` are the group's.
  __device__ void Run(const Element* queries, int64_t pair_index) {
    queries_ = queries;
    uint4 smallest[kSpans], largest[kSpans];
#pragma unroll
    for (int i = 0; i < kSpans; ++i) low_heads_[i] = LoadQuery(lane_ / 4, i);
    int tile = first_tile_, pair = 0;
#pragma unroll 1
    for (int stage = -kStages; stage < num_stages_; ++stage) {
      if (stage >= 0) {
        WaitForCopies<kStages - 1>();
        __syncwarp();
        LoadStage(stage, pair > 0, smallest, largest);
        __syncwarp();
      }
      Copy(stage + kStages);
      if (stage < 0 || ++pair < block_pairs_) continue;
      Score(smallest, largest, pair_index, tile);
      pair = 0;
      tile += tile_step_;
    }
    WaitForCopies<0>();
  }

 private:
  static constexpr int kPairChunks = kDim / 4;  // of 16 bytes
  static constexpr int kStagesOfLoad = kWarpThreads / kTile;
  static constexpr int kHeadsOfHalf = kProductHeads / 2;
  static_assert(kStages >= 1 && kStages <= kStagesOfLoad);

  __device__ int NumTiles() const {
    const int num_tiles = (row_.num_blocks + kTile - 1) / kTile;
    return first_tile_ < num_tiles ? (num_tiles - first_tile_ + tile_step_ - 1) / tile_step_ : 0;
  }

  // Index among the layer's pairs of bounds of what this lane's block has in its stage of the four from `first_stage`.
  __device__ uint32_t LoadPairs(int first_stage) const {
    const int stage = first_stage + lane_ / kTile;
    if (stage >= num_stages_) return 0;
    const int own_tile = block_pairs_ == 1 ? stage : stage / block_pairs_, pair = stage - own_tile * block_pairs_;
    const int block = min((first_tile_ + own_tile * tile_step_) * kTile + lane_ % kTile, row_.num_blocks - 1);
    if (row_.block_tokens >= page_tokens_) {
      return static_cast<uint32_t>(row_.context[block * block_pairs_ + pair].page * page_pairs_ + first_pair_);
    }
    const int blocks_per_page = page_tokens_ / row_.block_tokens, page = block / blocks_per_page;
    return static_cast<uint32_t>(row_.context[page].page * page_pairs_ + first_pair_ +
                                 (block - page * blocks_per_page) * block_pairs_ + pair);
  }

  __device__ const uint8_t* BoundsOf(uint32_t pair) const {
    return static_cast<const uint8_t*>(args_.bounds.data) + int64_t{pair} * (kDim * 4);
  }

  __device__ uint32_t StageAddress(int stage) const { return ring_ + stage % kStages * kStageBytes; }

  // Chunks of 16 bytes lie in rows of a block; those of odd rows have their halves of 128 bytes swapped, so that eight
  // lanes that load 64 bytes of two rows meet no bank twice.
  __device__ static uint32_t ChunkOffset(int row, int chunk) {
    return static_cast<uint32_t>((row * kPairChunks + (chunk ^ (row % 2 * 4))) * 16);
  }

  // Starts the copies of a stage, in order, or of nothing where there is none.
  __device__ void Copy(int stage) {
    if (stage < num_stages_) {
      if (stage % kStagesOfLoad == 0) {
        pairs_ = next_pairs_;
        next_pairs_ = LoadPairs(stage + kStagesOfLoad);
      }
      const uint32_t to = StageAddress(stage);
#pragma unroll
      for (int i = 0; i < kTile * kPairChunks / kWarpThreads; ++i) {
        const int chunk = i * kWarpThreads + lane_, row = chunk / kPairChunks, column = chunk % kPairChunks;
        const uint32_t pair = __shfl_sync(kWholeWarp, pairs_, stage % kStagesOfLoad * kTile + row);
        CopyVector(to + ChunkOffset(row, column), BoundsOf(pair) + column * 16);
      }
    }
    CloseCopies();
  }

  __device__ static uint4 LoadChunk(uint32_t address) {
    uint4 chunk;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(chunk.x), "=r"(chunk.y), "=r"(chunk.z), "=r"(chunk.w)
                 : "r"(address)
                 : "memory");
    return chunk;
  }

  __device__ void LoadStage(int stage, bool widens, uint4 (&smallest)[kSpans], uint4 (&largest)[kSpans]) const {
    const int row = lane_ / 4;
    const uint32_t from = StageAddress(stage);
#pragma unroll
    for (int i = 0; i < kSpans; ++i) {
      Extremes8<Element> loaded;
      loaded.smallest = LoadChunk(from + ChunkOffset(row, i * 4 + lane_ % 4));
      loaded.largest = LoadChunk(from + ChunkOffset(row, kPairChunks / 2 + i * 4 + lane_ % 4));
      if (widens) {
        Extremes8<Element> before;
        before.smallest = smallest[i], before.largest = largest[i];
        Widen(before, &loaded);
      }
      smallest[i] = loaded.smallest, largest[i] = loaded.largest;
    }
  }

  __device__ uint4 LoadQuery(int head, int span) const {
    if (head >= group_) return {};
    return *reinterpret_cast<const uint4*>(queries_ + head * kDim + span * kSpanChannels + lane_ % 4 * kVectorValues);
  }

  __device__ void Score(const uint4 (&smallest)[kSpans], const uint4 (&largest)[kSpans], int64_t pair_index,
                        int tile) const {
#pragma unroll 1
    for (int first_head = 0; first_head < group_; first_head += kProductHeads) {
      const int low_head = first_head + lane_ / 4, high_head = low_head + kHeadsOfHalf;
      const bool has_high = first_head + kHeadsOfHalf < group_;
      float by_smallest[4] = {}, by_largest[4] = {};
#pragma unroll
      for (int i = 0; i < kSpans; ++i) {
        const uint4 low = first_head == 0 ? low_heads_[i] : LoadQuery(low_head, i);
        const uint4 high = has_high ? LoadQuery(high_head, i) : uint4{};
        MultiplyBounds<false>(low, high, smallest[i], by_smallest);
        MultiplyBounds<true>(low, high, largest[i], by_largest);
      }
      StoreHead(memory_, pair_index, low_head, tile, row_.num_blocks, by_smallest[0] + by_largest[0],
                by_smallest[1] + by_largest[1]);
      if (!has_high) continue;
      StoreHead(memory_, pair_index, high_head, tile, row_.num_blocks, by_smallest[2] + by_largest[2],
                by_smallest[3] + by_largest[3]);
    }
  }

  const SelectBlocksArgs& args_;
  const ScoreMemory& memory_;
  const ScoredRow row_;
  const Element* queries_ = nullptr;
  const int group_, first_tile_, tile_step_, lane_;
  const uint32_t ring_;
  const int page_tokens_, block_pairs_, num_stages_;
  const int page_pairs_, first_pair_;  // pairs of bounds of a page; those before the KV head's in the first page
  uint32_t pairs_ = 0, next_pairs_;
  uint4 low_heads_[kSpans];
};

// A grid of [splits][KV heads][rows].
template <int kSpans>
__global__ void __launch_bounds__(kProductThreads, 4)
    ScoreByProductsKernel(const __grid_constant__ SelectBlocksArgs args, const __grid_constant__ ScoreMemory memory) {
  __shared__ __align__(128) uint8_t rings[kProductWarps][kRingBytes];
  LetNextStart();
  const SelectorRow& full_row = args.rows[blockIdx.z];
  const int warp = threadIdx.x / kWarpThreads, kv_head = static_cast<int>(blockIdx.y);
  TileScorer<kSpans> scorer(args, memory, LoadRow(args, full_row), kv_head,
                            static_cast<int>(blockIdx.x) * kProductWarps + warp,
                            static_cast<int>(gridDim.x) * kProductWarps, rings[warp]);
  scorer.Prefetch();
  WaitForPrevious();
  const int64_t first_query = full_row.row * args.num_heads + kv_head * memory.group;
  scorer.Run(static_cast<const __nv_bfloat16*>(args.q) + first_query * TileScorer<kSpans>::kDim,
             blockIdx.z * args.cache.num_kv_heads + kv_head);
}

using ScoreFunction = void (*)(SelectBlocksArgs, ScoreMemory);

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
  const auto grid = [&](int64_t blocks_per_multiprocessor, int64_t tiles_per_block) {
    constexpr int64_t kFewestSplits = 8;
    const int64_t resident = blocks_per_multiprocessor * CurrentDeviceTraits().num_multiprocessors;
    const int64_t splits = std::max(resident / (args.num_rows * num_kv_heads), kFewestSplits);
    const int64_t most = (memory.max_blocks / memory.tile_blocks + tiles_per_block - 1) / tiles_per_block;
    return dim3(static_cast<unsigned>(std::min(splits, most)), static_cast<unsigned>(num_kv_heads),
                static_cast<unsigned>(args.num_rows));
  };
  if (const ScoreFunction products = ProductKernel(args); products != nullptr) {
    return LaunchKernel(products, grid(4, kProductWarps), kProductThreads, 0, stream, args, memory);
  }
  const auto shared_bytes = static_cast<size_t>(memory.group * args.cache.head_dim) * sizeof(float);
  return WithKvElement(args.cache.element, [&]<typename Element>() {
    const int lanes = LanesOf(args.cache.head_dim);
    const auto kernel = lanes == 8    ? ScoreKernel<Element, 8>
                        : lanes == 16 ? ScoreKernel<Element, 16>
                                      : ScoreKernel<Element, 32>;
    return LaunchKernel(kernel, grid(4, 1), kThreads, shared_bytes, stream, args, memory);
  });
}

}  // namespace farspan::kernels::cuda
