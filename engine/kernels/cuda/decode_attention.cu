// SPDX-License-Identifier: Apache-2.0
// Decode attention as persistent blocks that take items, one split of one list each, from a common counter: how fast a
// block is does not matter, and which block reads an item does not show in the result.
#include "engine/kernels/cuda/decode_attention.h"

#include <algorithm>

#include "engine/kernels/cuda/decode_launch.h"
#include "engine/kernels/cuda/device.cuh"
#include "engine/kernels/cuda/tensor_maps.cuh"

namespace farspan::kernels::cuda {
namespace {

using decode::Plan;

constexpr int64_t kAlignment = 256;
// Tokens of a split, in lists of up to kShortTokens, up to kMiddleTokens and beyond. A split costs a partial state and
// a wait for the others, about 2 us, and how many a list has cannot depend on how many lists there are. H200, 8 KV
// heads of 128 channels: with 512 one row of 8k is an item a multiprocessor; with 704 five rows with lists of 2k
// are, 19.0 us instead of 20.7 with 512 and 17.4 with 384, with which 64 rows take 4 % more; one row of 1k takes 9.1
// instead of 10.8.
constexpr int64_t kSplitTokens[] = {256, 704, 512};
constexpr int64_t kShortTokens = 1024, kMiddleTokens = 2112;
constexpr int64_t kMaxGroup = 16;

int64_t MaxSplits(int64_t num_kv_heads) {
  const int64_t wanted = 2 * CurrentDeviceTraits().num_multiprocessors / num_kv_heads;
  return std::clamp<int64_t>(wanted, 1, decode::kMaxSplits);
}

int64_t HeadTiles(int64_t group) { return (group + decode::kHeadTile - 1) / decode::kHeadTile; }

// What of the plan is the same for every launch of a model.
Plan ModelPlan(int64_t num_heads, int64_t num_kv_heads, int64_t head_dim) {
  const int64_t group = num_heads / num_kv_heads;
  return {.num_kv_heads = static_cast<int32_t>(num_kv_heads),
          .num_heads = static_cast<int32_t>(num_heads),
          .group = static_cast<int32_t>(group),
          .group_heads = group >= 32 ? UINT32_MAX : (1u << group) - 1,
          .max_splits = static_cast<int32_t>(MaxSplits(num_kv_heads)),
          .head_pairs = static_cast<int32_t>(group > decode::kHeadTile ? decode::kHeadTile / 2 : (group + 1) / 2),
          .row_tiles = static_cast<int32_t>((head_dim + 15) / 16)};
}

int64_t OutBytes(const Plan& plan, int64_t group) { return HeadTiles(group) * plan.partial_tile_size() * 16; }
int64_t StateBytes(int64_t group) { return HeadTiles(group) * decode::kHeadTile * 8; }

// Of one list's splits.
int64_t ListBytes(const Plan& plan, int64_t group) {
  return plan.max_splits * (OutBytes(plan, group) + StateBytes(group));
}

// Counters come first and have the same place whatever the shape.
constexpr int64_t kMaxLists = 65536;
constexpr int64_t kCounterBytes = kAlignment + kMaxLists * 4;

bool Place(Workspace workspace, int64_t group, Plan* plan) {
  const int64_t num_states = int64_t{plan->num_lists} * plan->max_splits;
  if (workspace.data == nullptr || workspace.size_bytes < kCounterBytes + plan->num_lists * ListBytes(*plan, group)) {
    return false;
  }
  auto* bytes = static_cast<uint8_t*>(workspace.data);
  plan->next_item = reinterpret_cast<uint32_t*>(bytes);
  plan->tickets = reinterpret_cast<uint32_t*>(bytes + kAlignment);
  plan->partial_outs = reinterpret_cast<float4*>(bytes + kCounterBytes);
  plan->partial_states = reinterpret_cast<float2*>(bytes + kCounterBytes + num_states * OutBytes(*plan, group));
  return true;
}

bool Streams(const DecodeAttentionArgs& args) {
  const AttentionCommon& common = args.common;
  const KvLayerView& cache = common.cache;
  return CurrentDeviceTraits().runs_hopper_code() && common.activation == Activation::kBf16 &&
         cache.element != KvElement::kF32 && cache.head_dim % 16 == 0 && cache.head_dim <= kMaxHeadDim &&
         cache.page_tokens % decode::kUnitTokens == 0 && common.num_heads / cache.num_kv_heads <= kMaxGroup &&
         common.rope_dim % 2 == 0 && args.num_rows * cache.num_kv_heads <= kMaxLists;
}

cudaError_t Stream(const DecodeAttentionArgs& args, const SoftmaxStates& states, Workspace workspace,
                   cudaStream_t stream) {
  if (args.num_rows == 0) return cudaSuccess;
  const AttentionCommon& common = args.common;
  const KvLayerView& cache = common.cache;
  Plan plan = ModelPlan(common.num_heads, cache.num_kv_heads, cache.head_dim);
  plan.short_entries = static_cast<uint32_t>(kShortTokens / cache.page_tokens);
  plan.middle_entries = static_cast<uint32_t>(kMiddleTokens / cache.page_tokens);
  for (int i = 0; i < 3; ++i) {
    plan.split_entries[i] = static_cast<uint32_t>(std::max<int64_t>(1, kSplitTokens[i] / cache.page_tokens));
  }
  plan.num_lists = static_cast<int32_t>(args.num_rows * cache.num_kv_heads);
  plan.states = states;
  if (!Place(workspace, common.num_heads / cache.num_kv_heads, &plan)) return cudaErrorInvalidValue;
  switch (cache.element) {
    case KvElement::kBf16:
      return decode::LaunchBf16(args, plan, stream);
    case KvElement::kF16:
      return decode::LaunchF16(args, plan, stream);
    case KvElement::kF8E4M3:
      return decode::LaunchF8(args, plan, stream);
    case KvElement::kF32:
      break;
  }
  return cudaErrorInvalidValue;
}

}  // namespace

namespace decode {

// Pages as {channel of a column, token, column, K|V, page and head}. Where head_dim fills its columns a copy brings a
// unit at once; else one column of K or V, with zeros past head_dim.
bool EncodeCache(const KvLayerView& cache, int64_t padded_dim, CUtensorMap* map) {
  static const EncodeTiled encode = FindEncodeTiled();
  if (encode == nullptr) return false;
  const auto dim = static_cast<cuuint64_t>(cache.head_dim), tokens = static_cast<cuuint64_t>(cache.page_tokens);
  const auto planes = static_cast<cuuint64_t>(cache.num_pages * cache.num_kv_heads);
  const bool fills = cache.head_dim == padded_dim;
  const auto element = static_cast<cuuint64_t>(cache.element_bytes());
  const cuuint64_t columns = fills ? dim * element / kColumnBytes : 1;
  const cuuint64_t sizes[5] = {dim / columns, tokens, columns, 2, planes};
  const cuuint64_t strides[4] = {dim * element, kColumnBytes, tokens * dim * element, 2 * tokens * dim * element};
  const cuuint32_t box[5] = {static_cast<cuuint32_t>(kColumnBytes / element), kUnitTokens,
                             static_cast<cuuint32_t>(columns), fills ? 2u : 1u, 1};
  const cuuint32_t steps[5] = {1, 1, 1, 1, 1};
  // H200, one row of 128k tokens: 134 us; with requests promoted to 256 bytes 142.
  const auto type = element == 1 ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_UINT16;
  return encode(map, type, 5, cache.data, sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

}  // namespace decode

int64_t DecodeAttentionWorkspaceBytes(int64_t num_rows, int64_t num_heads, int64_t num_kv_heads, int64_t head_dim) {
  const int64_t group = num_heads / num_kv_heads;
  return kCounterBytes + num_rows * num_kv_heads * ListBytes(ModelPlan(num_heads, num_kv_heads, head_dim), group);
}

cudaError_t LaunchDecodeStates(const DecodeStatesArgs& args, Workspace workspace, cudaStream_t stream) {
  return Streams(args.attention) ? Stream(args.attention, args.states, workspace, stream)
                                 : LaunchPlainDecodeStates(args, stream);
}

cudaError_t LaunchDecodeAttention(const DecodeAttentionArgs& args, Workspace workspace, cudaStream_t stream) {
  return Streams(args) ? Stream(args, {}, workspace, stream) : LaunchPlainDecodeAttention(args, stream);
}

}  // namespace farspan::kernels::cuda
