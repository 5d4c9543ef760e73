// SPDX-License-Identifier: Apache-2.0
// From the scores of blocks to the lists: a thread block a (row, KV head). The threshold is found by histograms of the
// scores' order that narrow until the bin they end at is taken whole or holds one value; compaction keeps the order of
// blocks, so lists ascend and ties go to the lower block.
#include "engine/kernels/cuda/select_blocks.h"

#include <algorithm>

#include "engine/kernels/cuda/select_blocks.cuh"
#include "engine/kernels/cuda/vectors.cuh"

namespace farspan::kernels::cuda {
namespace {

constexpr int kBins = 2048, kBinBits = 11;
constexpr int kSharedKeys = 16384;
constexpr int kMaxWarps = 32;
constexpr uint32_t kNoCandidate = 0;  // below every score's key

// Orders as scores do: greater for a higher score, equal for both zeros, greatest for a NaN.
__device__ uint32_t KeyOfScore(float score) {
  const uint32_t bits = __float_as_uint(score + 0.0f);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0xffffffffu;
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

struct Shared {
  int32_t bins[kBins];  // once the threshold is known, the blocks picked where they fit
  float totals[kMaxGroup];
  uint32_t smallest_key, largest_key;
  int32_t warp_sums[kMaxWarps], warp_equals[kMaxWarps];
  int32_t bin, above, in_bin;
};

// The logarithm of the sum of the exponentials of a head's scores. One warp; the same in every lane.
__device__ float TotalOf(const ScorePartial* partials, int num_tiles) {
  const int lane = threadIdx.x % kWarpThreads;
  float maximum = -INFINITY, sum = 0;
  for (int i = lane; i < num_tiles; i += kWarpThreads) maximum = fmaxf(maximum, partials[i].maximum);
  for (int offset = kWarpThreads / 2; offset > 0; offset /= 2) {
    maximum = fmaxf(maximum, __shfl_xor_sync(kWholeWarp, maximum, offset));
  }
  for (int i = lane; i < num_tiles; i += kWarpThreads) {
    const ScorePartial partial = partials[i];
    sum += partial.sum * (partial.maximum == -INFINITY ? 1.0f : expf(partial.maximum - maximum));
  }
  return maximum + logf(WarpSum(sum));
}

// The KV head's scores of four neighbouring blocks: sums over the group, or the logarithms of sums of softmaxes.
__device__ float4 ReduceGroup(const ScoreMemory& memory, int64_t pair, int block, bool softmax, const float* totals) {
  const auto load = [&](int head) { return *reinterpret_cast<const float4*>(memory.ScoresOf(pair, head) + block); };
  const int group = static_cast<int>(memory.group);
  if (!softmax) {
    float4 sum = load(0);
    for (int head = 1; head < group; ++head) {
      const float4 score = load(head);
      sum = make_float4(sum.x + score.x, sum.y + score.y, sum.z + score.z, sum.w + score.w);
    }
    return sum;
  }
  float4 maximum = make_float4(-INFINITY, -INFINITY, -INFINITY, -INFINITY), sum = make_float4(0, 0, 0, 0);
#pragma unroll 4
  for (int head = 0; head < group; ++head) {
    const float4 score = load(head);
    const float total = totals[head];
    maximum = make_float4(fmaxf(maximum.x, score.x - total), fmaxf(maximum.y, score.y - total),
                          fmaxf(maximum.z, score.z - total), fmaxf(maximum.w, score.w - total));
  }
#pragma unroll 4
  for (int head = 0; head < group; ++head) {
    const float4 score = load(head);
    const float total = totals[head];
    sum.x += expf(score.x - total - maximum.x);
    sum.y += expf(score.y - total - maximum.y);
    sum.z += expf(score.z - total - maximum.z);
    sum.w += expf(score.w - total - maximum.w);
  }
  return make_float4(maximum.x + logf(sum.x), maximum.y + logf(sum.y), maximum.z + logf(sum.z),
                     maximum.w + logf(sum.w));
}

// The keys of all blocks, kNoCandidate for those that may not be picked, and the extremes of the others. `keys` may be
// the first head's scores.
__device__ void FillKeys(const ScoreMemory& memory, int64_t pair, const SelectorRow& row, uint32_t* keys,
                         Shared* shared) {
  const int first = static_cast<int>(row.first_candidate), end = first + static_cast<int>(row.num_candidates);
  const bool softmax = row.reduction == ScoreReduction::kSoftmaxSum;
  uint32_t smallest = 0xffffffffu, largest = 0;
  for (int block = 4 * threadIdx.x; block < row.num_blocks; block += 4 * blockDim.x) {
    const float4 scores = ReduceGroup(memory, pair, block, softmax, shared->totals);
    const float score[4] = {scores.x, scores.y, scores.z, scores.w};
    uint32_t key[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const bool candidate = block + i >= first && block + i < end;
      key[i] = candidate ? KeyOfScore(score[i]) : kNoCandidate;
      if (candidate) smallest = min(smallest, key[i]);
      largest = max(largest, key[i]);
    }
    *reinterpret_cast<uint4*>(keys + block) = make_uint4(key[0], key[1], key[2], key[3]);
  }
  smallest = __reduce_min_sync(kWholeWarp, smallest);
  largest = __reduce_max_sync(kWholeWarp, largest);
  if (threadIdx.x % kWarpThreads == 0) {
    atomicMin(&shared->smallest_key, smallest);
    atomicMax(&shared->largest_key, largest);
  }
}

// Finds the bin in which the `wanted` highest keys end, counting from the highest bin.
__device__ void FindBin(int wanted, Shared* shared) {
  const int bins_per_thread = kBins / blockDim.x, lane = threadIdx.x % kWarpThreads, warp = threadIdx.x / kWarpThreads;
  const int first = kBins - 1 - threadIdx.x * bins_per_thread;
  int own = 0;
  for (int i = 0; i < bins_per_thread; ++i) own += shared->bins[first - i];
  int through = own;  // keys in the bins of this thread and those of higher ones
  for (int offset = 1; offset < kWarpThreads; offset *= 2) {
    const int before = __shfl_up_sync(kWholeWarp, through, offset);
    if (lane >= offset) through += before;
  }
  if (lane == kWarpThreads - 1) shared->warp_sums[warp] = through;
  __syncthreads();
  for (int i = 0; i < warp; ++i) through += shared->warp_sums[i];
  if (through - own >= wanted || through < wanted) return;
  int above = through - own;
  for (int i = 0; i < bins_per_thread; ++i) {
    const int in_bin = shared->bins[first - i];
    if (above + in_bin >= wanted) {
      shared->bin = first - i, shared->above = above, shared->in_bin = in_bin;
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

__device__ Threshold FindThreshold(const uint32_t* keys, int num_blocks, int num_picked, Shared* shared) {
  uint32_t low = shared->smallest_key, span = shared->largest_key - low;  // keys in [low, low + span] may be it
  int wanted = num_picked;
  int shift = max(0, 32 - __clz(static_cast<int>(span)) - kBinBits);
  while (true) {
    for (int i = threadIdx.x; i < kBins; i += blockDim.x) shared->bins[i] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < num_blocks; i += blockDim.x) {
      const uint32_t key = keys[i];
      if (key != kNoCandidate && key - low <= span) atomicAdd(&shared->bins[(key - low) >> shift], 1);
    }
    __syncthreads();
    FindBin(wanted, shared);
    __syncthreads();
    low += static_cast<uint32_t>(shared->bin) << shift;
    wanted -= shared->above;
    if (shared->in_bin == wanted) return {low - 1, 0};
    if (shift == 0) return {low, wanted};
    span = (1u << shift) - 1;
    shift = max(0, shift - kBinBits);
  }
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

// The row's leading entries, those of the picked blocks and its trailing ones.
__device__ void WriteList(const SelectBlocksArgs& args, const SelectorRow& row, int64_t kv_head, const int32_t* picks) {
  const int page_tokens = static_cast<int>(args.cache.page_tokens), block_tokens = static_cast<int>(row.block_tokens);
  const int num_leading = static_cast<int>(row.leading.num_entries);
  const int num_entries = static_cast<int>(SelectedEntries(row, page_tokens));
  const int first_trailing = num_entries - static_cast<int>(row.trailing.num_entries);
  const int entries_per_block = max(1, block_tokens / page_tokens), step = min(block_tokens, page_tokens);
  const int64_t begin = row.slots_begin + kv_head * num_entries;
  const KvEntry* const context = args.entries + row.context.entries_begin;
  for (int i = threadIdx.x; i < num_entries; i += blockDim.x) {
    KvEntry entry;
    if (i < num_leading) {
      entry = args.entries[row.leading.entries_begin + i];
    } else if (i >= first_trailing) {
      entry = args.entries[row.trailing.entries_begin + i - first_trailing];
    } else {
      const int pick = (i - num_leading) / entries_per_block, part = (i - num_leading) % entries_per_block;
      const int token = picks[pick] * block_tokens + part * step;
      entry.page = context[token / page_tokens].page;
      entry.first_valid = token % page_tokens;
      entry.num_valid = step;
      entry.position = token;
    }
    args.entries[begin + i] = entry;
  }
  if (threadIdx.x == 0) args.lists[row.decode_row * args.cache.num_kv_heads + kv_head] = {begin, num_entries};
}

// A grid of [KV heads][rows].
__global__ void __launch_bounds__(1024)
    PickKernel(SelectBlocksArgs args, ScoreMemory memory, int tile_blocks, bool keys_are_shared) {
  __shared__ Shared shared;
  extern __shared__ uint4 shared_keys[];
  LetNextStart();
  const SelectorRow& row = args.rows[blockIdx.y];
  const int64_t kv_head = blockIdx.x, pair = blockIdx.y * args.cache.num_kv_heads + kv_head;
  if (threadIdx.x == 0) shared.smallest_key = 0xffffffffu, shared.largest_key = 0;
  WaitForPrevious();
  if (row.num_picked == 0) return;
  if (IsDenseLayer(row, args.layer)) {
    if (threadIdx.x == 0) args.lists[row.decode_row * args.cache.num_kv_heads + kv_head] = row.context;
    return;
  }
  const int num_blocks = static_cast<int>(row.num_blocks), warps = blockDim.x / kWarpThreads;
  uint32_t* const keys = keys_are_shared ? reinterpret_cast<uint32_t*>(shared_keys)
                                         : reinterpret_cast<uint32_t*>(memory.ScoresOf(pair, 0));
  if (row.reduction == ScoreReduction::kSoftmaxSum) {
    for (int head = threadIdx.x / kWarpThreads; head < memory.group; head += warps) {
      const float total = TotalOf(memory.PartialsOf(pair, head), (num_blocks + tile_blocks - 1) / tile_blocks);
      if (threadIdx.x % kWarpThreads == 0) shared.totals[head] = total;
    }
  }
  __syncthreads();
  FillKeys(memory, pair, row, keys, &shared);
  __syncthreads();
  const Threshold threshold = FindThreshold(keys, num_blocks, static_cast<int>(row.num_picked), &shared);
  int32_t* const picks = row.num_picked <= kBins ? shared.bins : memory.PicksOf(pair);
  Compact(keys, num_blocks, threshold, picks, &shared);
  __syncthreads();
  WriteList(args, row, kv_head, picks);
}

int64_t PaddedBlocks(int64_t max_blocks) {
  return (max_blocks + kMaxScoreTileBlocks - 1) / kMaxScoreTileBlocks * kMaxScoreTileBlocks;
}

// Partials of the smallest tile that any shape has.
constexpr int64_t kSmallestTileBlocks = ScoreTileBlocks(kMaxHeadDim);

}  // namespace

ScoreMemory MakeScoreMemory(const SelectBlocksArgs& args, int64_t max_blocks, Workspace workspace) {
  const int64_t padded = PaddedBlocks(max_blocks), heads = args.num_rows * args.num_heads;
  ScoreMemory memory = {.scores = static_cast<float*>(workspace.data),
                        .max_blocks = padded,
                        .max_tiles = padded / kSmallestTileBlocks,
                        .group = args.num_heads / args.cache.num_kv_heads};
  memory.partials = reinterpret_cast<ScorePartial*>(memory.scores + heads * padded);
  memory.picks = reinterpret_cast<int32_t*>(memory.partials + heads * memory.max_tiles);
  return memory;
}

cudaError_t LaunchPickBlocks(const SelectBlocksArgs& args, const ScoreMemory& memory, cudaStream_t stream) {
  static const cudaError_t raised =
      cudaFuncSetAttribute(PickKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedKeys * sizeof(uint32_t));
  if (raised != cudaSuccess) return raised;
  const bool keys_are_shared = memory.max_blocks <= kSharedKeys;
  const size_t shared_bytes = keys_are_shared ? static_cast<size_t>(memory.max_blocks) * sizeof(uint32_t) : 0;
  // A multiprocessor each where there are few lists to make, else two on one.
  const int64_t pairs = args.num_rows * args.cache.num_kv_heads;
  const unsigned threads = pairs <= CurrentDeviceTraits().num_multiprocessors ? 1024 : 512;
  const dim3 grid(static_cast<unsigned>(args.cache.num_kv_heads), static_cast<unsigned>(args.num_rows));
  return LaunchKernel(PickKernel, grid, threads, shared_bytes, stream, args, memory,
                      ScoreTileBlocks(args.cache.head_dim), keys_are_shared);
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
