// SPDX-License-Identifier: Apache-2.0
// What the kernels that score keys share: a query or key spread over a warp's lanes, queries as capped entries see
// them, where a position's entry lies.
#pragma once

#include "engine/kernels/cuda/kernels.h"
#include "engine/kernels/cuda/vectors.cuh"

namespace farspan::kernels::cuda {

// On tensor cores, for bf16 queries of heads of 64, 80, 96, 128 or 256 channels, f32 caches apart, where columns are
// 1, 2, 4, 8 or multiples of 16 tokens; cudaErrorInvalidValue for what it does not take, with nothing enqueued. Entries
// of a list are disjoint in position, whatever their heads.
cudaError_t LaunchKeyScoreTiles(const KeyScoresArgs& args, cudaStream_t stream);

constexpr int kLanePairs = kMaxHeadDim / 2 / kWarpThreads;

struct LanePairs {
  float2 at[kLanePairs];  // pair lane + 32 i
};

__device__ inline float2 LoadPair(const float* from) { return *reinterpret_cast<const float2*>(from); }
__device__ inline float2 LoadPair(const __nv_bfloat16* from) {
  return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(from));
}
__device__ inline float2 LoadPair(const __half* from) {
  return __half22float2(*reinterpret_cast<const __half2*>(from));
}
__device__ inline float2 LoadPair(const __nv_fp8_e4m3* from) { return make_float2(float(from[0]), float(from[1])); }

template <typename Element>
__device__ LanePairs LoadPairs(const Element* from, int head_dim) {
  const int lane = threadIdx.x % kWarpThreads;
  LanePairs pairs;
#pragma unroll
  for (int i = 0; i < kLanePairs; ++i) {
    const int channel = 2 * (lane + i * kWarpThreads);
    pairs.at[i] = channel < head_dim ? LoadPair(from + channel) : make_float2(0, 0);
  }
  return pairs;
}

// The query as an entry with a cap sees it.
__device__ inline void Turn(const AttentionCommon& common, int64_t row, int64_t cap, LanePairs* query) {
#pragma unroll
  for (int i = 0; i < kLanePairs; ++i) {
    const int64_t pair = threadIdx.x % kWarpThreads + i * kWarpThreads;
    if (2 * pair >= common.rope_dim) continue;
    double cap_sin, cap_cos;
    sincos(static_cast<double>(cap) * common.inverse_frequencies[pair], &cap_sin, &cap_cos);
    const float2 own = LoadPair(common.rope_cos_sin + row * common.rope_dim + 2 * pair);
    const auto cos = static_cast<float>(cap_cos * own.x + cap_sin * own.y);
    const auto sin = static_cast<float>(cap_sin * own.x - cap_cos * own.y);
    float2& q = query->at[i];
    q = make_float2(q.x * cos - q.y * sin, q.x * sin + q.y * cos);
  }
}

// The same in every lane.
__device__ inline float Product(const LanePairs& a, const LanePairs& b) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kLanePairs; ++i) sum = fmaf(a.at[i].x, b.at[i].x, fmaf(a.at[i].y, b.at[i].y, sum));
  return WarpSum(sum);
}

// The first entry that ends behind `position`.
__device__ inline int64_t FindEntry(const KvEntry* entries, int64_t num_entries, int64_t position) {
  int64_t low = 0, high = num_entries;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (entries[middle].position + entries[middle].num_valid > position) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

}  // namespace farspan::kernels::cuda
