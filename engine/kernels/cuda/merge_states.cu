// SPDX-License-Identifier: Apache-2.0
// Softmax states to outputs: as many threads a (row, query head) as it has vectors of four channels.
#include <algorithm>

#include "engine/kernels/cuda/kernels.h"
#include "engine/kernels/cuda/vectors.cuh"

namespace farspan::kernels::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kChannels = 4;  // of one access
constexpr int kInFlight = 4;  // states

__device__ void Store4(float* to, float4 value) { *reinterpret_cast<float4*>(to) = value; }
__device__ void Store4(__nv_bfloat16* to, float4 value) {
  const __nv_bfloat162 low = __floats2bfloat162_rn(value.x, value.y), high = __floats2bfloat162_rn(value.z, value.w);
  *reinterpret_cast<uint2*>(to) =
      make_uint2(*reinterpret_cast<const uint32_t*>(&low), *reinterpret_cast<const uint32_t*>(&high));
}

// Threads are [place in the block: row and head][vector of four channels]; those of a place compute its weights alike.
template <typename Value>
__global__ void __launch_bounds__(kThreads) MergeKernel(MergeStatesArgs args) {
  LetNextStart();
  WaitForPrevious();
  const int64_t num_places = args.num_rows * args.num_heads;
  const int64_t place = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (place >= num_places) return;
  float maximum = -INFINITY;
  for (int64_t i = 0; i < args.num_states; ++i) maximum = fmaxf(maximum, args.states.maximum[i * num_places + place]);
  float sum = 0;
  float4 out = make_float4(0, 0, 0, 0);
  const int64_t channel = place * args.head_dim + threadIdx.x * kChannels;
  for (int64_t first = 0; first < args.num_states; first += kInFlight) {
    float4 parts[kInFlight] = {};
    float sums[kInFlight] = {}, maxima[kInFlight] = {};
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      if (first + i >= args.num_states) break;
      const int64_t state = (first + i) * num_places;
      parts[i] = __ldcs(reinterpret_cast<const float4*>(args.states.out + state * args.head_dim + channel));
      sums[i] = args.states.sum[state + place];
      maxima[i] = args.states.maximum[state + place];
    }
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      if (sums[i] == 0) continue;
      const float weight = expf(maxima[i] - maximum);
      sum = fmaf(weight, sums[i], sum);
      out.x = fmaf(weight, parts[i].x, out.x);
      out.y = fmaf(weight, parts[i].y, out.y);
      out.z = fmaf(weight, parts[i].z, out.z);
      out.w = fmaf(weight, parts[i].w, out.w);
    }
  }
  const float inverse = sum == 0 ? 0.0f : 1.0f / sum;
  Store4(static_cast<Value*>(args.out) + channel,
         make_float4(out.x * inverse, out.y * inverse, out.z * inverse, out.w * inverse));
  if (args.lse != nullptr && threadIdx.x == 0) args.lse[place] = maximum + logf(sum);
}

}  // namespace

cudaError_t LaunchMergeStates(const MergeStatesArgs& args, cudaStream_t stream) {
  const int64_t num_places = args.num_rows * args.num_heads;
  if (num_places == 0) return cudaSuccess;
  if (args.head_dim % 8 != 0 || args.head_dim > kMaxHeadDim) return cudaErrorInvalidValue;
  const int64_t vectors = args.head_dim / kChannels, places = kThreads / vectors;
  const dim3 block(static_cast<unsigned>(vectors), static_cast<unsigned>(places));
  const auto grid = static_cast<unsigned>((num_places + places - 1) / places);
  return WithActivation(args.activation, [&]<typename Value>() {
    return LaunchKernel(MergeKernel<Value>, grid, block, 0, stream, args);
  });
}

}  // namespace farspan::kernels::cuda
