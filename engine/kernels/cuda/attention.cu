// SPDX-License-Identifier: Apache-2.0
// Attention over entry lists, a warp a query: the plain version that faster ones are measured against. A page is one
// softmax update, as on the CPU. A decode row's list is cut after every kDecodeSplitPages distinct pages; the splits go
// round the warps of a block, whose states are merged in one order, so that a result depends on the row's list alone.
#include <cuda_fp8.h>

#include "engine/kernels/cuda/device.cuh"
#include "engine/kernels/cuda/kernels.h"
#include "engine/kernels/cuda/prefill_attention.h"

namespace farspan::kernels::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kMaxPairs = static_cast<int>(kMaxHeadDim) / 2 / kWarpThreads;  // of channels, a lane
constexpr float kNegativeInfinity = -__builtin_huge_valf();

// One query of one head. A lane holds the channel pairs `lane + 32 i`.
struct Query {
  int64_t row;
  int64_t position;
  int64_t left_window;
  int64_t kv_head;
  int head_in_group;
  float2 q[kMaxPairs];
};

struct State {
  float maximum = kNegativeInfinity;
  float denominator = 0;
  float2 out[kMaxPairs] = {};
};

__device__ int NumPairs(int64_t head_dim) { return static_cast<int>((head_dim / 2 + kWarpThreads - 1) / kWarpThreads); }

__device__ float2 LoadQueryPair(const AttentionCommon& common, int64_t offset) {
  if (common.activation == Activation::kF32) return *reinterpret_cast<const float2*>(common.q_f32() + offset);
  const auto* values = static_cast<const uint16_t*>(common.q) + offset;
  return make_float2(LoadBf16(values, 0), LoadBf16(values, 1));
}

__device__ void StoreOutPair(const AttentionCommon& common, int64_t offset, float2 value) {
  if (common.activation == Activation::kF32) {
    *reinterpret_cast<float2*>(common.out_f32() + offset) = value;
    return;
  }
  auto* out = static_cast<uint16_t*>(common.out) + offset;
  out[0] = ToBf16(value.x);
  out[1] = ToBf16(value.y);
}

__device__ Query LoadQuery(const AttentionCommon& common, int64_t row, int64_t head, int64_t position,
                           int64_t left_window) {
  const int64_t group = common.num_heads / common.cache.num_kv_heads, head_dim = common.cache.head_dim;
  Query query{.row = row,
              .position = position,
              .left_window = left_window,
              .kv_head = head / group,
              .head_in_group = static_cast<int>(head % group)};
  const int64_t q = (row * common.num_heads + head) * head_dim;
#pragma unroll
  for (int i = 0; i < kMaxPairs; ++i) {
    const int64_t channel = 2 * (threadIdx.x + static_cast<int64_t>(i) * kWarpThreads);
    query.q[i] = channel < head_dim ? LoadQueryPair(common, q + channel) : make_float2(0, 0);
  }
  return query;
}

// The query as an entry with this cap sees it: turned from its own position to the cap's.
__device__ void TurnQuery(const AttentionCommon& common, const Query& query, int64_t cap, float2* turned) {
  const float* cos_sin = common.rope_cos_sin + query.row * common.rope_dim;
#pragma unroll
  for (int i = 0; i < kMaxPairs; ++i) {
    const int64_t pair = threadIdx.x + static_cast<int64_t>(i) * kWarpThreads;
    turned[i] = query.q[i];
    if (2 * pair >= common.rope_dim) continue;
    const double angle = static_cast<double>(cap) * common.inverse_frequencies[pair];
    const double cap_cos = cos(angle), cap_sin = sin(angle);
    const double row_cos = cos_sin[2 * pair], row_sin = cos_sin[2 * pair + 1];
    const auto turn_cos = static_cast<float>(cap_cos * row_cos + cap_sin * row_sin);
    const auto turn_sin = static_cast<float>(cap_sin * row_cos - cap_cos * row_sin);
    turned[i] = make_float2(query.q[i].x * turn_cos - query.q[i].y * turn_sin,
                            query.q[i].x * turn_sin + query.q[i].y * turn_cos);
  }
}

__device__ float2 LoadPair(const KvLayerView& cache, int64_t offset) {
  switch (cache.element) {
    case KvElement::kF32:
      return *reinterpret_cast<const float2*>(static_cast<const float*>(cache.data) + offset);
    case KvElement::kF16:
      return __half22float2(*reinterpret_cast<const __half2*>(static_cast<const __half*>(cache.data) + offset));
    case KvElement::kF8E4M3:
      return static_cast<float2>(
          *reinterpret_cast<const __nv_fp8x2_e4m3*>(static_cast<const uint8_t*>(cache.data) + offset));
    case KvElement::kBf16:
      break;
  }
  const auto* values = static_cast<const uint16_t*>(cache.data) + offset;
  return make_float2(LoadBf16(values, 0), LoadBf16(values, 1));
}

struct Span {
  int begin;
  int end;
};

// Token indices in the page that the query sees of the entry.
__device__ Span SeenTokens(const KvEntry& entry, const Query& query) {
  if ((entry.head_mask >> query.head_in_group & 1u) == 0) return {0, 0};
  int64_t begin = 0, end = query.position - entry.position + 1;
  const int64_t first_visible = query.position - query.left_window + 1;
  if (!entry.ignores_left_window && first_visible > entry.position) begin = first_visible - entry.position;
  if (end > entry.num_valid) end = entry.num_valid;
  if (begin >= end) return {0, 0};
  return {static_cast<int>(entry.first_valid + begin), static_cast<int>(entry.first_valid + end)};
}

// Folds the entries [begin, end), all of one page, into the state. `scores` holds a page's tokens and is the warp's.
__device__ void FoldPage(const AttentionCommon& common, const KvEntry* begin, const KvEntry* end, const Query& query,
                         float* scores, State* state) {
  const KvLayerView& cache = common.cache;
  const int pairs = NumPairs(cache.head_dim);
  const int64_t keys = (begin->page * cache.num_kv_heads + query.kv_head) * 2 * cache.plane_elements();
  float page_maximum = kNegativeInfinity;
  for (const KvEntry* entry = begin; entry < end; ++entry) {
    const Span span = SeenTokens(*entry, query);
    if (span.begin >= span.end) continue;
    float2 q[kMaxPairs];
    if (query.position > entry->query_cap) {
      TurnQuery(common, query, entry->query_cap, q);
    } else {
      for (int i = 0; i < kMaxPairs; ++i) q[i] = query.q[i];
    }
    for (int token = span.begin; token < span.end; ++token) {
      float dot = 0;
      for (int i = 0; i < pairs; ++i) {
        const int64_t channel = 2 * (threadIdx.x + static_cast<int64_t>(i) * kWarpThreads);
        if (channel >= cache.head_dim) continue;
        const float2 key = LoadPair(cache, keys + token * cache.head_dim + channel);
        dot = fmaf(q[i].x, key.x, fmaf(q[i].y, key.y, dot));
      }
      const float score = WarpSum(dot) * common.scale;
      if (threadIdx.x == 0) scores[token] = score;
      // Not fmaxf: a NaN must show in the output.
      page_maximum = score > page_maximum || isnan(score) ? score : page_maximum;
    }
  }
  __syncwarp();
  if (page_maximum == kNegativeInfinity) return;
  const float maximum = page_maximum > state->maximum || isnan(page_maximum) ? page_maximum : state->maximum;
  const float decay = expf(state->maximum - maximum);
  state->maximum = maximum;
  for (int i = 0; i < pairs; ++i) {
    state->out[i].x *= decay;
    state->out[i].y *= decay;
  }
  float sum = 0;
  const int64_t values = keys + cache.plane_elements();
  for (const KvEntry* entry = begin; entry < end; ++entry) {
    const Span span = SeenTokens(*entry, query);
    for (int token = span.begin; token < span.end; ++token) {
      const float weight = expf(scores[token] - maximum);
      sum += weight;
      for (int i = 0; i < pairs; ++i) {
        const int64_t channel = 2 * (threadIdx.x + static_cast<int64_t>(i) * kWarpThreads);
        if (channel >= cache.head_dim) continue;
        const float2 value = LoadPair(cache, values + token * cache.head_dim + channel);
        state->out[i].x = fmaf(weight, value.x, state->out[i].x);
        state->out[i].y = fmaf(weight, value.y, state->out[i].y);
      }
    }
  }
  state->denominator = state->denominator * decay + sum;
  __syncwarp();
}

__device__ const KvEntry* PageRunEnd(const KvEntry* entry, const KvEntry* end) {
  const KvEntry* next = entry + 1;
  while (next < end && next->page == entry->page) ++next;
  return next;
}

__device__ void Finish(const AttentionCommon& common, const State& state, int64_t row, int64_t head) {
  const int64_t index = row * common.num_heads + head;
  const float inverse = state.denominator == 0 ? 0.0f : 1.0f / state.denominator;
  for (int i = 0; i < NumPairs(common.cache.head_dim); ++i) {
    const int64_t channel = 2 * (threadIdx.x + static_cast<int64_t>(i) * kWarpThreads);
    if (channel >= common.cache.head_dim) continue;
    StoreOutPair(common, index * common.cache.head_dim + channel,
                 make_float2(state.out[i].x * inverse, state.out[i].y * inverse));
  }
  if (common.lse != nullptr && threadIdx.x == 0) common.lse[index] = state.maximum + logf(state.denominator);
}

// Adds `other` to `state`.
__device__ void Merge(const State& other, State* state) {
  if (other.denominator == 0) return;
  const float maximum = other.maximum > state->maximum || isnan(other.maximum) ? other.maximum : state->maximum;
  const float mine = expf(state->maximum - maximum), theirs = expf(other.maximum - maximum);
  state->maximum = maximum;
  state->denominator = state->denominator * mine + other.denominator * theirs;
#pragma unroll
  for (int i = 0; i < kMaxPairs; ++i) {
    state->out[i].x = state->out[i].x * mine + other.out[i].x * theirs;
    state->out[i].y = state->out[i].y * mine + other.out[i].y * theirs;
  }
}

__device__ void StoreState(const AttentionCommon& common, const SoftmaxStates& states, const State& state, int64_t row,
                           int64_t head) {
  const int64_t index = row * common.num_heads + head;
  for (int i = 0; i < NumPairs(common.cache.head_dim); ++i) {
    const int64_t channel = 2 * (threadIdx.x + static_cast<int64_t>(i) * kWarpThreads);
    if (channel >= common.cache.head_dim) continue;
    *reinterpret_cast<float2*>(states.out + index * common.cache.head_dim + channel) = state.out[i];
  }
  if (threadIdx.x != 0) return;
  states.maximum[index] = state.maximum;
  states.sum[index] = state.denominator;
  if (common.lse != nullptr) common.lse[index] = state.maximum + logf(state.denominator);
}

// A block a (row, query head). Leaves states where `states` has places for them.
__global__ void DecodeKernel(DecodeAttentionArgs args, SoftmaxStates states_out) {
  __shared__ float scores[kWarps][kMaxPageTokens];
  __shared__ State states[kWarps][kWarpThreads];
  const AttentionCommon& common = args.common;
  const int64_t row_index = blockIdx.x, head = blockIdx.y;
  const DecodeRow row = args.rows[row_index];
  const Query query = LoadQuery(common, row.row, head, row.position, row.left_window);
  const KvList list = args.lists[row_index * common.cache.num_kv_heads + query.kv_head];
  const KvEntry* entry = common.entries + list.entries_begin;
  const KvEntry* end = entry + list.num_entries;
  State state;
  for (int64_t page = 0; entry < end; ++page) {
    const KvEntry* next = PageRunEnd(entry, end);
    if (page / kDecodeSplitPages % kWarps == threadIdx.y) {
      FoldPage(common, entry, next, query, scores[threadIdx.y], &state);
    }
    entry = next;
  }
  states[threadIdx.y][threadIdx.x] = state;
  __syncthreads();
  if (threadIdx.y != 0) return;
  for (int warp = 1; warp < kWarps; ++warp) Merge(states[warp][threadIdx.x], &state);
  if (states_out.out != nullptr) return StoreState(common, states_out, state, row.row, head);
  Finish(common, state, row.row, head);
}

// A warp a query; the block's warps take neighbouring queries of one (tile, head).
__global__ void PrefillKernel(PrefillAttentionArgs args) {
  __shared__ float scores[kWarps][kMaxPageTokens];
  const AttentionCommon& common = args.common;
  const int64_t tile_index = blockIdx.x, head = blockIdx.y;
  const PrefillTile tile = args.tiles[tile_index];
  const int64_t offset = static_cast<int64_t>(blockIdx.z) * kWarps + threadIdx.y;
  if (offset >= tile.num_queries) return;
  const int64_t row = tile.row + offset;
  const Query query = LoadQuery(common, row, head, tile.first_position + offset, tile.left_window);
  const int64_t index = tile_index * common.num_heads + head;
  const KvList list = args.lists[index];
  const BlockRange range = args.kept_ranges == nullptr ? BlockRange() : args.kept_ranges[index];
  const int64_t num_parts = range.num_blocks == kAllBlocks ? 1 : range.num_blocks;
  const int64_t part_entries =
      range.num_blocks == kAllBlocks ? list.num_entries : MaskBlockEntries(common.cache.page_tokens);
  State state;
  for (int64_t part = 0; part < num_parts; ++part) {
    const int64_t first = range.num_blocks == kAllBlocks ? 0 : args.kept_blocks[range.begin + part] * part_entries;
    const KvEntry* entry = common.entries + list.entries_begin + first;
    const KvEntry* end = entry + (part_entries < list.num_entries - first ? part_entries : list.num_entries - first);
    while (entry < end) {
      const KvEntry* next = PageRunEnd(entry, end);
      FoldPage(common, entry, next, query, scores[threadIdx.y], &state);
      entry = next;
    }
  }
  Finish(common, state, row, head);
}

bool Supported(const AttentionCommon& common) {
  const KvLayerView& cache = common.cache;
  return cache.head_dim <= kMaxHeadDim && cache.head_dim % 2 == 0 && cache.page_tokens <= kMaxPageTokens &&
         common.rope_dim % 2 == 0;
}

}  // namespace

cudaError_t LaunchPlainDecodeAttention(const DecodeAttentionArgs& args, cudaStream_t stream) {
  return LaunchPlainDecodeStates({.attention = args}, stream);
}

cudaError_t LaunchPlainDecodeStates(const DecodeStatesArgs& states_args, cudaStream_t stream) {
  const DecodeAttentionArgs& args = states_args.attention;
  if (!Supported(args.common)) return cudaErrorInvalidValue;
  if (args.num_rows == 0) return cudaSuccess;
  const dim3 grid(static_cast<unsigned>(args.num_rows), static_cast<unsigned>(args.common.num_heads));
  DecodeKernel<<<grid, dim3(kWarpThreads, kWarps), 0, stream>>>(args, states_args.states);
  return cudaGetLastError();
}

cudaError_t LaunchPlainPrefillAttention(const PrefillAttentionArgs& args, cudaStream_t stream) {
  if (!Supported(args.common)) return cudaErrorInvalidValue;
  if (args.num_tiles == 0) return cudaSuccess;
  const dim3 grid(static_cast<unsigned>(args.num_tiles), static_cast<unsigned>(args.common.num_heads),
                  static_cast<unsigned>(kPrefillTileQueries / kWarps));
  PrefillKernel<<<grid, dim3(kWarpThreads, kWarps), 0, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace farspan::kernels::cuda
