// SPDX-License-Identifier: Apache-2.0
// From the scores of blocks to the lists: a thread block a (row, KV head). The threshold is found by histograms of the
// scores' order that narrow until the bin they end at is taken whole or holds one value; compaction keeps the order of
// blocks, so lists ascend and ties go to the lower block. Contexts of few blocks stay in registers from their scores to
// their entries, whose latencies are what such a choice costs.
#include "engine/kernels/cuda/select_blocks.h"

#include <algorithm>

#include "engine/kernels/cuda/select_blocks.cuh"
#include "engine/kernels/cuda/vectors.cuh"

namespace farspan::kernels::cuda {
namespace {

constexpr int kBins = 2048, kBinBits = 11;
constexpr int kListedKeys = kWarpThreads;
constexpr int kMaxWarps = 32;
constexpr uint32_t kNoCandidate = 0;  // below every score's key

// Orders as scores do: greater for a higher score, equal for both zeros, greatest for a NaN.
__device__ uint32_t KeyOfScore(float score) {
  const uint32_t bits = __float_as_uint(score + 0.0f);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0xffffffffu;
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

struct Shared {
  int32_t bins[kBins];  // the highest first; once the threshold is known, the blocks picked where they fit
  float totals[kMaxGroup];
  uint32_t smallest_keys[kMaxWarps], largest_keys[kMaxWarps];
  int32_t warp_sums[kMaxWarps], warp_equals[kMaxWarps];
  int32_t bin, above, in_bin, num_listed;
  uint32_t listed[kListedKeys];
};

// The logarithm of the sum of the exponentials of a head's scores. One warp; the same in every lane. The order of
// adding follows from the number of tiles alone.
__device__ float TotalOf(const ScorePartial* partials, int num_tiles) {
  constexpr int kHeld = 8;
  const int lane = threadIdx.x % kWarpThreads;
  float maximum = -INFINITY, sum = 0;
  for (int begin = lane; begin < num_tiles; begin += kHeld * kWarpThreads) {
    ScorePartial held[kHeld];
    float held_maximum = maximum;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      const int tile = begin + i * kWarpThreads;
      held[i] = tile < num_tiles ? partials[tile] : ScorePartial{-INFINITY, 0};
      held_maximum = fmaxf(held_maximum, held[i].maximum);
    }
    // A sum beside a maximum of -infinity is 0 or NaN.
    sum *= maximum == -INFINITY ? 1.0f : expf(maximum - held_maximum);
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      sum += held[i].sum * (held[i].maximum == -INFINITY ? 1.0f : expf(held[i].maximum - held_maximum));
    }
    maximum = held_maximum;
  }
  float largest = maximum;
  for (int offset = kWarpThreads / 2; offset > 0; offset /= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(kWholeWarp, largest, offset));
  }
  sum *= maximum == -INFINITY ? 1.0f : expf(maximum - largest);
  return largest + logf(WarpSum(sum));
}

// A KV head's scores of four neighbouring blocks, the query heads of its group one after the other: first the loads,
// which need no totals.
struct GroupScores {
  static constexpr int kHeld = 4;
  const float* scores;  // of the first head
  int64_t stride;
  int group;
  float4 held[kHeld];

  __device__ GroupScores(const ScoreMemory& memory, int64_t pair, int block)
      : scores(memory.ScoresOf(pair, 0) + block), stride(memory.max_blocks), group(static_cast<int>(memory.group)) {
#pragma unroll
    for (int head = 0; head < kHeld; ++head) {
      if (head < group) held[head] = Load(head);
    }
  }

  __device__ float4 Load(int head) const { return *reinterpret_cast<const float4*>(scores + head * stride); }

  template <typename Body>
  __device__ void ForHeads(const Body& body) const {
#pragma unroll
    for (int head = 0; head < kHeld; ++head) {
      if (head < group) body(head, held[head]);
    }
    for (int head = kHeld; head < group; ++head) body(head, Load(head));
  }

  // Sums over the group, or the logarithms of sums of softmaxes.
  __device__ float4 Reduce(bool softmax, const float* totals) const {
    float4 sum = make_float4(0, 0, 0, 0);
    if (!softmax) {
      ForHeads([&](int, const float4& score) {
        sum = make_float4(sum.x + score.x, sum.y + score.y, sum.z + score.z, sum.w + score.w);
      });
      return sum;
    }
    float4 most = make_float4(-INFINITY, -INFINITY, -INFINITY, -INFINITY);
    ForHeads([&](int head, const float4& score) {
      const float total = totals[head];
      most = make_float4(fmaxf(most.x, score.x - total), fmaxf(most.y, score.y - total), fmaxf(most.z, score.z - total),
                         fmaxf(most.w, score.w - total));
    });
    ForHeads([&](int head, const float4& score) {
      const float total = totals[head];
      sum = make_float4(sum.x + __expf(score.x - total - most.x), sum.y + __expf(score.y - total - most.y),
                        sum.z + __expf(score.z - total - most.z), sum.w + __expf(score.w - total - most.w));
    });
    return make_float4(most.x + __logf(sum.x), most.y + __logf(sum.y), most.z + __logf(sum.z), most.w + __logf(sum.w));
  }
};

// What a thread block needs of its row, read before the kernels ahead have ended.
struct PickedRow {
  int num_blocks, block_tokens, first_candidate, end_candidate, num_picked;
  int num_leading, num_trailing, num_entries, entries_per_block, step_tokens, page_tokens;
  bool softmax;
  int64_t leading, trailing;
  const KvEntry* context;
  KvEntry* out;
};

__device__ PickedRow LoadPickedRow(const SelectBlocksArgs& args, const SelectorRow& row, int64_t kv_head) {
  PickedRow picked;
  picked.page_tokens = static_cast<int>(args.cache.page_tokens);
  picked.num_blocks = static_cast<int>(row.num_blocks), picked.block_tokens = static_cast<int>(row.block_tokens);
  picked.first_candidate = static_cast<int>(row.first_candidate);
  picked.end_candidate = picked.first_candidate + static_cast<int>(row.num_candidates);
  picked.num_picked = static_cast<int>(row.num_picked);
  picked.num_leading = static_cast<int>(row.leading.num_entries);
  picked.num_trailing = static_cast<int>(row.trailing.num_entries);
  picked.num_entries = static_cast<int>(SelectedEntries(row, picked.page_tokens));
  picked.entries_per_block = max(1, picked.block_tokens / picked.page_tokens);
  picked.step_tokens = min(picked.block_tokens, picked.page_tokens);
  picked.softmax = row.reduction == ScoreReduction::kSoftmaxSum;
  picked.leading = row.leading.entries_begin, picked.trailing = row.trailing.entries_begin;
  picked.context = args.entries + row.context.entries_begin;
  picked.out = args.entries + row.slots_begin + kv_head * picked.num_entries;
  return picked;
}

// Keys of four neighbouring blocks, kNoCandidate for those that may not be picked; widens the extremes by the others.
__device__ uint4 KeysOf(const float4& scores, int block, const PickedRow& row, uint32_t* smallest, uint32_t* largest) {
  const float score[4] = {scores.x, scores.y, scores.z, scores.w};
  uint32_t key[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const bool candidate = block + i >= row.first_candidate && block + i < row.end_candidate;
    key[i] = candidate ? KeyOfScore(score[i]) : kNoCandidate;
    if (candidate) *smallest = min(*smallest, key[i]);
    *largest = max(*largest, key[i]);
  }
  return make_uint4(key[0], key[1], key[2], key[3]);
}

__device__ void ShareExtremes(uint32_t smallest, uint32_t largest, Shared* shared) {
  smallest = __reduce_min_sync(kWholeWarp, smallest);
  largest = __reduce_max_sync(kWholeWarp, largest);
  if (threadIdx.x % kWarpThreads != 0) return;
  shared->smallest_keys[threadIdx.x / kWarpThreads] = smallest;
  shared->largest_keys[threadIdx.x / kWarpThreads] = largest;
}

__device__ void ShareTotals(const ScoreMemory& memory, int64_t pair, const PickedRow& row, Shared* shared) {
  if (!row.softmax) return;
  const int num_tiles = (row.num_blocks + memory.tile_blocks - 1) / memory.tile_blocks;
  for (int head = threadIdx.x / kWarpThreads; head < memory.group; head += blockDim.x / kWarpThreads) {
    const float total = TotalOf(memory.PartialsOf(pair, head), num_tiles);
    if (threadIdx.x % kWarpThreads == 0) shared->totals[head] = total;
  }
}

// Finds the bin in which the `wanted` highest keys end.
__device__ void FindBin(int wanted, Shared* shared) {
  const int bins_per_thread = kBins / blockDim.x, lane = threadIdx.x % kWarpThreads, warp = threadIdx.x / kWarpThreads;
  const int first = threadIdx.x * bins_per_thread;
  int own = 0;
  for (int i = 0; i < bins_per_thread; i += 2) {
    const int2 counts = *reinterpret_cast<const int2*>(shared->bins + first + i);
    own += counts.x + counts.y;
  }
  int through = own;  // keys in the bins of this thread and those of higher ones
  for (int offset = 1; offset < kWarpThreads; offset *= 2) {
    const int before = __shfl_up_sync(kWholeWarp, through, offset);
    if (lane >= offset) through += before;
  }
  if (lane == kWarpThreads - 1) shared->warp_sums[warp] = through;
  __syncthreads();
  through += __reduce_add_sync(kWholeWarp, lane < warp ? shared->warp_sums[lane] : 0);
  if (through - own >= wanted || through < wanted) return;
  int above = through - own;
  for (int i = first; i < first + bins_per_thread; ++i) {
    const int in_bin = shared->bins[i];
    if (above + in_bin >= wanted) {
      shared->bin = kBins - 1 - i, shared->above = above, shared->in_bin = in_bin;
      return;
    }
    above += in_bin;
  }
}

// Which keys are picked: all above `key`, and the first `equals` blocks of those equal to it.
struct Threshold {
  uint32_t key;
  int equals;
};

// The `wanted`-th highest of up to a warp's width of listed keys. Every warp finds it for itself.
__device__ Threshold ThresholdOfList(int num_listed, int wanted, const Shared& shared) {
  const int lane = threadIdx.x % kWarpThreads;
  const uint32_t key = lane < num_listed ? shared.listed[lane] : kNoCandidate;
  int greater = 0, equal = 0;
  for (int i = 0; i < num_listed; ++i) {
    const uint32_t other = __shfl_sync(kWholeWarp, key, i);
    greater += other > key ? 1 : 0;
    equal += other == key ? 1 : 0;
  }
  const unsigned found = __ballot_sync(kWholeWarp, lane < num_listed && greater < wanted && wanted <= greater + equal);
  const int at = __ffs(static_cast<int>(found)) - 1;
  return {__shfl_sync(kWholeWarp, key, at), wanted - __shfl_sync(kWholeWarp, greater, at)};
}

// After ShareExtremes and a barrier, the bins being zero. `for_keys` calls its argument with each key of the thread.
template <typename ForKeys>
__device__ Threshold FindThreshold(int num_picked, Shared* shared, const ForKeys& for_keys) {
  const int lane = threadIdx.x % kWarpThreads;
  const bool has_warp = lane < blockDim.x / kWarpThreads;
  uint32_t low = __reduce_min_sync(kWholeWarp, has_warp ? shared->smallest_keys[lane] : 0xffffffffu);
  // Keys in [low, low + span] may be it.
  uint32_t span = __reduce_max_sync(kWholeWarp, has_warp ? shared->largest_keys[lane] : 0u) - low;
  int wanted = num_picked;
  int shift = max(0, 32 - __clz(static_cast<int>(span)) - kBinBits);
  while (true) {
    for_keys([&](uint32_t key) {
      if (key != kNoCandidate && key - low <= span) atomicAdd(&shared->bins[kBins - 1 - ((key - low) >> shift)], 1);
    });
    __syncthreads();
    FindBin(wanted, shared);
    __syncthreads();
    const int in_bin = shared->in_bin;
    low += static_cast<uint32_t>(shared->bin) << shift;
    wanted -= shared->above;
    if (in_bin == wanted) return {low - 1, 0};
    if (shift == 0) return {low, wanted};
    span = (1u << shift) - 1;
    shift = max(0, shift - kBinBits);
    if (in_bin <= kListedKeys) {
      for_keys([&](uint32_t key) {
        if (key != kNoCandidate && key - low <= span) shared->listed[atomicAdd(&shared->num_listed, 1)] = key;
      });
      __syncthreads();
      return ThresholdOfList(in_bin, wanted, *shared);
    }
    for (int i = threadIdx.x; i < kBins; i += blockDim.x) shared->bins[i] = 0;
    __syncthreads();
  }
}

__device__ KvEntry EntryAt(const PickedRow& row, int token, int32_t page) {
  KvEntry entry;
  entry.page = page;
  entry.first_valid = token % row.page_tokens;
  entry.num_valid = row.step_tokens;
  entry.position = token;
  return entry;
}

__device__ int32_t PageOf(const PickedRow& row, int token) { return row.context[token / row.page_tokens].page; }

// The entries of pick number `pick`.
__device__ void WriteBlock(const PickedRow& row, int pick, int block) {
  for (int i = 0; i < row.entries_per_block; ++i) {
    const int token = block * row.block_tokens + i * row.step_tokens;
    row.out[row.num_leading + pick * row.entries_per_block + i] = EntryAt(row, token, PageOf(row, token));
  }
}

// Those of all picks, once every thread has named its own.
__device__ void WriteBlocks(const PickedRow& row, const int32_t* picks) {
  __syncthreads();
  for (int i = threadIdx.x; i < row.num_picked; i += blockDim.x) WriteBlock(row, i, picks[i]);
}

// Entry `index` of those read whatever is chosen: where it comes from and, among the list's, goes to.
__device__ const KvEntry& Forced(const SelectBlocksArgs& args, const PickedRow& row, int index) {
  return args.entries[index < row.num_leading ? row.leading + index : row.trailing + index - row.num_leading];
}
__device__ KvEntry* ForcedPlace(const PickedRow& row, int index) {
  return row.out + (index < row.num_leading ? index : row.num_entries - row.num_trailing + index - row.num_leading);
}

// Each thread holds the scores, keys and picks of 4 * kChunks neighbouring blocks. `pages` are those of its first four,
// where a block has one entry.
template <int kChunks>
__device__ void PickInRegisters(const ScoreMemory& memory, int64_t pair, const PickedRow& row,
                                const int32_t (&pages)[4], Shared* shared) {
  const int first = threadIdx.x * 4 * kChunks, lane = threadIdx.x % kWarpThreads, warp = threadIdx.x / kWarpThreads;
  uint4 keys[kChunks] = {};
  uint32_t smallest = 0xffffffffu, largest = 0;
#pragma unroll
  for (int i = 0; i < kChunks; ++i) {
    const int block = min(first + 4 * i, (row.num_blocks - 1) / 4 * 4);
    const GroupScores scores(memory, pair, block);
    if (i == 0) {
      ShareTotals(memory, pair, row, shared);
      __syncthreads();
    }
    if (first + 4 * i < row.num_blocks) {
      keys[i] = KeysOf(scores.Reduce(row.softmax, shared->totals), first + 4 * i, row, &smallest, &largest);
    }
  }
  ShareExtremes(smallest, largest, shared);
  __syncthreads();
  const auto for_keys = [&](const auto& body) {
#pragma unroll
    for (int i = 0; i < kChunks; ++i) body(keys[i].x), body(keys[i].y), body(keys[i].z), body(keys[i].w);
  };
  const Threshold threshold = FindThreshold(row.num_picked, shared, for_keys);
  int counts = 0;  // of keys above the threshold, and 65536 times of equal ones
  for_keys([&](uint32_t key) {
    counts += (key > threshold.key ? 1 : 0) + (key == threshold.key && threshold.equals > 0 ? 1 << 16 : 0);
  });
  int through = counts;
  for (int offset = 1; offset < kWarpThreads; offset *= 2) {
    const int before = __shfl_up_sync(kWholeWarp, through, offset);
    if (lane >= offset) through += before;
  }
  if (lane == kWarpThreads - 1) shared->warp_equals[warp] = through;
  __syncthreads();
  const int before = through - counts + __reduce_add_sync(kWholeWarp, lane < warp ? shared->warp_equals[lane] : 0);
  int above = before & 0xffff, equal = before >> 16, block = first;
  const bool writes_now = kChunks == 1 && row.entries_per_block == 1;
  int32_t* const picks = row.num_picked <= kBins ? shared->bins : memory.PicksOf(pair);
  for_keys([&](uint32_t key) {
    const bool is_equal = key == threshold.key && threshold.equals > 0;
    if (key > threshold.key || (is_equal && equal < threshold.equals)) {
      const int pick = above + min(equal, threshold.equals);
      if (writes_now) {
        row.out[row.num_leading + pick] = EntryAt(row, block * row.block_tokens, pages[(block - first) % 4]);
      } else {
        picks[pick] = block;
      }
    }
    above += key > threshold.key ? 1 : 0;
    equal += is_equal ? 1 : 0;
    ++block;
  });
  if (!writes_now) WriteBlocks(row, picks);
}

// Writes the picked blocks in ascending order. Each warp compacts its own stretch of blocks.
__device__ void Compact(const uint32_t* keys, int num_blocks, Threshold threshold, int32_t* picks, Shared* shared) {
  const int lane = threadIdx.x % kWarpThreads, warp = threadIdx.x / kWarpThreads, warps = blockDim.x / kWarpThreads;
  const int stretch = (num_blocks + warps * kWarpThreads - 1) / (warps * kWarpThreads) * kWarpThreads;
  const int begin = warp * stretch, end = min(begin + stretch, num_blocks);
  int num_above = 0, num_equal = 0;
  for (int i = begin + lane; i < end; i += kWarpThreads) {
    num_above += keys[i] > threshold.key ? 1 : 0;
    num_equal += keys[i] == threshold.key ? 1 : 0;
  }
  num_above = __reduce_add_sync(kWholeWarp, num_above);
  num_equal = __reduce_add_sync(kWholeWarp, num_equal);
  if (lane == 0) shared->warp_sums[warp] = num_above, shared->warp_equals[warp] = num_equal;
  __syncthreads();
  int above = __reduce_add_sync(kWholeWarp, lane < warp ? shared->warp_sums[lane] : 0);
  int equal = __reduce_add_sync(kWholeWarp, lane < warp ? shared->warp_equals[lane] : 0);
  const unsigned before = (1u << lane) - 1;
  for (int i = begin; i < end; i += kWarpThreads) {
    const uint32_t key = i + lane < end ? keys[i + lane] : kNoCandidate;
    const bool is_equal = i + lane < end && key == threshold.key;
    const unsigned aboves = __ballot_sync(kWholeWarp, key > threshold.key);
    const unsigned equals = __ballot_sync(kWholeWarp, is_equal);
    const int own_equal = equal + __popc(equals & before), own_above = above + __popc(aboves & before);
    if (key > threshold.key || (is_equal && own_equal < threshold.equals)) {
      picks[own_above + min(own_equal, threshold.equals)] = i + lane;
    }
    above += __popc(aboves);
    equal += __popc(equals);
  }
}

// Keys lie in `keys`, which are the first head's scores.
__device__ void PickInMemory(const ScoreMemory& memory, int64_t pair, const PickedRow& row, uint32_t* keys,
                             Shared* shared) {
  ShareTotals(memory, pair, row, shared);
  __syncthreads();
  uint32_t smallest = 0xffffffffu, largest = 0;
  for (int block = 4 * threadIdx.x; block < row.num_blocks; block += 4 * blockDim.x) {
    const GroupScores scores(memory, pair, block);
    *reinterpret_cast<uint4*>(keys + block) =
        KeysOf(scores.Reduce(row.softmax, shared->totals), block, row, &smallest, &largest);
  }
  ShareExtremes(smallest, largest, shared);
  __syncthreads();
  const Threshold threshold = FindThreshold(row.num_picked, shared, [&](const auto& body) {
    for (int i = threadIdx.x; i < row.num_blocks; i += blockDim.x) body(keys[i]);
  });
  int32_t* const picks = row.num_picked <= kBins ? shared->bins : memory.PicksOf(pair);
  Compact(keys, row.num_blocks, threshold, picks, shared);
  WriteBlocks(row, picks);
}

// A grid of [KV heads][rows].
template <int kThreads>
__global__ void __launch_bounds__(kThreads) PickKernel(SelectBlocksArgs args, ScoreMemory memory) {
  __shared__ Shared shared;
  __shared__ PickedRow row;
  LetNextStart();
  const SelectorRow& full_row = args.rows[blockIdx.y];
  const int64_t kv_head = blockIdx.x, pair = blockIdx.y * args.cache.num_kv_heads + kv_head;
  const bool is_dense = IsDenseLayer(full_row, args.layer), is_padding = full_row.num_picked == 0;
  if (threadIdx.x == 0) {
    row = LoadPickedRow(args, full_row, kv_head);
    shared.num_listed = 0;
  }
  for (int i = threadIdx.x; i < kBins; i += kThreads) shared.bins[i] = 0;
  __syncthreads();
  // What is chosen among and what is forced is read ahead.
  const int num_forced = is_dense || is_padding ? 0 : row.num_leading + row.num_trailing;
  int forced = kThreads - 1 - static_cast<int>(threadIdx.x);
  KvEntry entry;
  if (forced < num_forced) entry = Forced(args, row, forced);
  int32_t pages[4] = {};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int block = 4 * static_cast<int>(threadIdx.x) + i;
    if (!is_padding && block < row.num_blocks) pages[i] = PageOf(row, block * row.block_tokens);
  }
  WaitForPrevious();
  if (is_padding) return;
  if (threadIdx.x == 0) {
    args.lists[full_row.decode_row * args.cache.num_kv_heads + kv_head] =
        is_dense ? full_row.context : KvList{row.out - args.entries, row.num_entries};
  }
  if (is_dense) return;
  if (forced < num_forced) *ForcedPlace(row, forced) = entry;
  for (forced += kThreads; forced < num_forced; forced += kThreads) {
    *ForcedPlace(row, forced) = Forced(args, row, forced);
  }
  if (row.num_blocks <= 4 * kThreads) {
    PickInRegisters<1>(memory, pair, row, pages, &shared);
  } else if (row.num_blocks <= 16 * kThreads) {
    PickInRegisters<4>(memory, pair, row, pages, &shared);
  } else {
    PickInMemory(memory, pair, row, reinterpret_cast<uint32_t*>(memory.ScoresOf(pair, 0)), &shared);
  }
}

int64_t PaddedBlocks(int64_t max_blocks) {
  return (max_blocks + kLargestTileBlocks - 1) / kLargestTileBlocks * kLargestTileBlocks;
}

}  // namespace

ScoreMemory MakeScoreMemory(const SelectBlocksArgs& args, int64_t max_blocks, Workspace workspace) {
  const int64_t padded = PaddedBlocks(max_blocks), heads = args.num_rows * args.num_heads;
  ScoreMemory memory = {.scores = static_cast<float*>(workspace.data),
                        .max_blocks = padded,
                        .max_tiles = padded / kSmallestTileBlocks,
                        .group = args.num_heads / args.cache.num_kv_heads,
                        .tile_blocks = ScoreTileBlocks(args)};
  memory.partials = reinterpret_cast<ScorePartial*>(memory.scores + heads * padded);
  memory.picks = reinterpret_cast<int32_t*>(memory.partials + heads * memory.max_tiles);
  return memory;
}

cudaError_t LaunchPickBlocks(const SelectBlocksArgs& args, const ScoreMemory& memory, cudaStream_t stream) {
  constexpr int kFewThreads = 512, kManyThreads = 1024;
  const dim3 grid(static_cast<unsigned>(args.cache.num_kv_heads), static_cast<unsigned>(args.num_rows));
  if (memory.max_blocks <= 16 * kFewThreads) {
    return LaunchKernel(PickKernel<kFewThreads>, grid, kFewThreads, 0, stream, args, memory);
  }
  return LaunchKernel(PickKernel<kManyThreads>, grid, kManyThreads, 0, stream, args, memory);
}

int64_t SelectBlocksWorkspaceBytes(int64_t num_rows, int64_t num_heads, int64_t num_kv_heads, int64_t max_blocks) {
  const int64_t padded = PaddedBlocks(max_blocks), max_tiles = padded / kSmallestTileBlocks;
  const int64_t head_bytes = padded * static_cast<int64_t>(sizeof(float)) + max_tiles * sizeof(ScorePartial);
  return num_rows * (num_heads * head_bytes + num_kv_heads * padded * static_cast<int64_t>(sizeof(int32_t)));
}

cudaError_t LaunchSelectBlocks(const SelectBlocksArgs& args, int64_t max_blocks, Workspace workspace,
                               cudaStream_t stream) {
  if (args.num_rows == 0) return cudaSuccess;
  const KvLayerView& cache = args.cache;
  const int64_t group = args.num_heads / cache.num_kv_heads;
  const bool fits = cache.head_dim % kVectorValues == 0 && cache.head_dim <= kMaxHeadDim && group <= kMaxGroup &&
                    cache.page_tokens % KeyBoundsTokens(cache.page_tokens) == 0;
  if (!fits) return cudaErrorInvalidValue;
  if (workspace.size_bytes <
      SelectBlocksWorkspaceBytes(args.num_rows, args.num_heads, cache.num_kv_heads, max_blocks)) {
    return cudaErrorInvalidValue;
  }
  const ScoreMemory memory = MakeScoreMemory(args, max_blocks, workspace);
  if (const cudaError_t error = LaunchScoreBlocks(args, memory, stream); error != cudaSuccess) return error;
  return LaunchPickBlocks(args, memory, stream);
}

}  // namespace farspan::kernels::cuda
