// SPDX-License-Identifier: Apache-2.0
// Rotary positions and the write into KV pages in one pass over the projections.
#include <algorithm>

#include "engine/kernels/cuda/kernels.h"
#include "engine/kernels/cuda/vectors.cuh"

namespace farspan::kernels::cuda {
namespace {

constexpr int kHeadsPerThread = 4;

// What turns the pairs of eight neighbouring channels: {cos, sin} each, the identity from rope_dim on.
__device__ Values8 Rotation(const float* cos_sin, int64_t channel, int64_t rope_dim) {
  if (rope_dim % 4 == 0 && channel + kVectorValues <= rope_dim) return Load8(cos_sin + channel);
  Values8 rotation;
#pragma unroll
  for (int i = 0; i < kVectorValues; i += 2) {
    const bool rotated = channel + i < rope_dim;
    const float2 pair = rotated ? *reinterpret_cast<const float2*>(cos_sin + channel + i) : make_float2(1, 0);
    rotation.at[i] = pair.x;
    rotation.at[i + 1] = pair.y;
  }
  return rotation;
}

__device__ Values8 Rotate(const Values8& x, const Values8& rotation) {
  Values8 turned;
#pragma unroll
  for (int i = 0; i < kVectorValues; i += 2) {
    const float even = x.at[i], odd = x.at[i + 1], cos = rotation.at[i], sin = rotation.at[i + 1];
    turned.at[i] = even * cos - odd * sin;
    turned.at[i + 1] = even * sin + odd * cos;
  }
  return turned;
}

// A thread holds the same eight channels of several heads of a row, blockDim.y * gridDim.y heads apart.
template <typename Value, typename Cached>
__global__ void RopeAppendKernel(RopeAppendArgs args) {
  LetNextStart();
  WaitForPrevious();
  const KvLayerView& cache = args.cache;
  const int64_t row = blockIdx.x, channel = threadIdx.x * kVectorValues;
  const int head_dim = static_cast<int>(cache.head_dim), num_kv_heads = static_cast<int>(cache.num_kv_heads);
  const int num_heads = static_cast<int>(args.num_heads), first_value_head = num_heads + num_kv_heads;
  const int all_heads = first_value_head + num_kv_heads, head_stride = static_cast<int>(blockDim.y * gridDim.y);
  const int first_head = static_cast<int>(blockIdx.y * blockDim.y + threadIdx.y);
  const KvSlot slot = args.slots[row];
  const Value* from = static_cast<const Value*>(args.qkv) + row * all_heads * head_dim + channel;
  Values8 x[kHeadsPerThread];
#pragma unroll
  for (int i = 0; i < kHeadsPerThread; ++i) {
    const int head = first_head + i * head_stride;
    if (head < all_heads && slot.page >= 0) x[i] = Load8(from + head * head_dim);
  }
  if (slot.page < 0) return;
  const Values8 rotation = Rotation(args.cos_sin + row * args.rope_dim, channel, args.rope_dim);
  Value* q = static_cast<Value*>(args.q) + row * num_heads * head_dim + channel;
  Cached* page = static_cast<Cached*>(cache.data) + slot.page * cache.page_elements() + slot.token * head_dim + channel;
#pragma unroll
  for (int i = 0; i < kHeadsPerThread; ++i) {
    const int head = first_head + i * head_stride;
    if (head < num_heads) {
      Store8(q + head * head_dim, Rotate(x[i], rotation));
    } else if (head < first_value_head) {
      Store8(page + (head - num_heads) * 2 * cache.plane_elements(), Rotate(x[i], rotation));
    } else if (head < all_heads) {
      Store8(page + ((head - first_value_head) * 2 + 1) * cache.plane_elements(), x[i]);
    }
  }
}

}  // namespace

cudaError_t LaunchRopeAppend(const RopeAppendArgs& args, cudaStream_t stream) {
  if (args.num_rows == 0) return cudaSuccess;
  if (args.cache.head_dim % kVectorValues != 0 || args.cache.head_dim > kMaxHeadDim) return cudaErrorInvalidValue;
  // Few rows: as many threads as there are vectors, so that a row's latency is one access deep.
  constexpr int64_t kFewRows = 256, kThreads = 256, kThreadsOfFewRows = 128;
  const bool few_rows = args.num_rows <= kFewRows;
  const int64_t all_heads = args.num_heads + 2 * args.cache.num_kv_heads;
  const int64_t vectors = args.cache.head_dim / kVectorValues;
  const int64_t heads_per_block = std::min(all_heads, (few_rows ? kThreadsOfFewRows : kThreads) / vectors);
  const int64_t heads_per_pass = heads_per_block * (few_rows ? 1 : kHeadsPerThread);
  const dim3 grid(static_cast<unsigned>(args.num_rows),
                  static_cast<unsigned>((all_heads + heads_per_pass - 1) / heads_per_pass));
  const dim3 block(static_cast<unsigned>(vectors), static_cast<unsigned>(heads_per_block));
  return WithActivation(args.activation, [&]<typename Value>() {
    return WithKvElement(args.cache.element, [&]<typename Cached>() {
      return LaunchKernel(RopeAppendKernel<Value, Cached>, grid, block, 0, stream, args);
    });
  });
}

}  // namespace farspan::kernels::cuda
