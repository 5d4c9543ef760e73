// SPDX-License-Identifier: Apache-2.0
// Chosen tokens to pages of their own, and the bounds of their keys on the way: eight channels of a run a thread, the
// runs of a page in one block.
#include <algorithm>

#include "engine/kernels/cuda/extremes.cuh"
#include "engine/kernels/cuda/kernels.h"

namespace farspan::kernels::cuda {
namespace {

constexpr int kMaxVectors = static_cast<int>(kMaxHeadDim) / kVectorValues;
constexpr int kMaxRuns = static_cast<int>(kMaxPageTokens) / 16;
constexpr int kInFlight = 8;  // tokens

template <typename Element>
struct Vector {
  uint4 bits;
};
template <>
struct Vector<float> {
  uint4 bits[2];
};
template <>
struct Vector<__nv_fp8_e4m3> {
  uint2 bits;
};

template <typename Element>
__device__ const Vector<Element>* VectorAt(const Element* from) {
  return reinterpret_cast<const Vector<Element>*>(from);
}

// A page of one KV head, K or V. Threads are [vector of a head][run of the page].
template <typename Element>
struct PageCopy {
  const CompactTokensArgs& args;
  int64_t kv_head;
  int64_t first_token;  // of the page, among the tokens
  int32_t page;
  bool is_value;

  __device__ Element* At(KvSlot slot) const {
    const KvLayerView& cache = args.cache;
    return static_cast<Element*>(cache.data) + slot.page * cache.page_elements() +
           (kv_head * 2 + (is_value ? 1 : 0)) * cache.plane_elements() + slot.token * cache.head_dim +
           static_cast<int64_t>(threadIdx.x) * kVectorValues;
  }

  // Tokens [begin, end) of the page, of which there is one at least; returns their extremes where `kExtremes`.
  template <bool kExtremes>
  __device__ Extremes8<Element> Copy(int begin, int end) const {
    const KvSlot* const sources = args.sources + kv_head * args.num_tokens + first_token;
    Extremes8<Element> extremes;
    if (kExtremes) extremes = OneKey(At(sources[begin]));
    for (int first = begin; first < end; first += kInFlight) {
      Vector<Element> loaded[kInFlight];
#pragma unroll
      for (int i = 0; i < kInFlight; ++i) loaded[i] = *VectorAt(At(sources[min(first + i, end - 1)]));
#pragma unroll
      for (int i = 0; i < kInFlight; ++i) {
        if (kExtremes) Widen(OneKey(reinterpret_cast<const Element*>(&loaded[i])), &extremes);
        if (first + i >= end) continue;
        *reinterpret_cast<Vector<Element>*>(At({.page = page, .token = first + i})) = loaded[i];
      }
    }
    return extremes;
  }
};

// A grid of [pages][KV heads][K|V].
template <typename Element>
__global__ void CompactKernel(CompactTokensArgs args) {
  LetNextStart();
  WaitForPrevious();
  __shared__ Extremes8<Element> shared[kMaxRuns][kMaxVectors];
  const KvLayerView& cache = args.cache;
  const auto page_tokens = static_cast<int>(cache.page_tokens), run_tokens = page_tokens / static_cast<int>(blockDim.y);
  const int64_t first_token = static_cast<int64_t>(blockIdx.x) * page_tokens;
  const PageCopy<Element> copy = {args, blockIdx.y, first_token, args.pages[blockIdx.x], blockIdx.z == 1};
  const int filled = static_cast<int>(min(static_cast<int64_t>(page_tokens), args.num_tokens - first_token));
  const int run = static_cast<int>(threadIdx.y), begin = run * run_tokens, end = min(begin + run_tokens, filled);
  const bool has_bounds = args.bounds.data != nullptr && !copy.is_value;
  if (!has_bounds) {
    if (begin < end) copy.template Copy<false>(begin, end);
    return;
  }
  Element* const bounds = static_cast<Element*>(args.bounds.data) + static_cast<int64_t>(threadIdx.x) * kVectorValues;
  if (begin < end) {
    const Extremes8<Element> own = copy.template Copy<true>(begin, end);
    shared[run][threadIdx.x] = own;
    if (end == begin + run_tokens) {
      StoreBounds(own, cache.head_dim, bounds + RunBoundsOffset(cache, copy.page, copy.kv_head, run));
    }
  }
  __syncthreads();
  if (filled < page_tokens || blockDim.y == 1 || run != 0) return;
  Extremes8<Element> all = shared[0][threadIdx.x];
  for (unsigned other = 1; other < blockDim.y; ++other) Widen(shared[other][threadIdx.x], &all);
  StoreBounds(all, cache.head_dim, bounds + PageBoundsOffset(cache, copy.page, copy.kv_head));
}

}  // namespace

cudaError_t LaunchCompactTokens(const CompactTokensArgs& args, cudaStream_t stream) {
  if (args.num_tokens == 0) return cudaSuccess;
  const KvLayerView& cache = args.cache;
  const int64_t run_tokens = KeyBoundsTokens(cache.page_tokens);
  if (cache.head_dim % kVectorValues != 0 || cache.head_dim > kMaxHeadDim || cache.page_tokens % run_tokens != 0 ||
      cache.page_tokens > kMaxPageTokens) {
    return cudaErrorInvalidValue;
  }
  const dim3 block(static_cast<unsigned>(cache.head_dim / kVectorValues),
                   static_cast<unsigned>(cache.page_tokens / run_tokens));
  const dim3 grid(static_cast<unsigned>((args.num_tokens + cache.page_tokens - 1) / cache.page_tokens),
                  static_cast<unsigned>(cache.num_kv_heads), 2);
  return WithKvElement(cache.element, [&]<typename Element>() {
    return LaunchKernel(CompactKernel<Element>, grid, block, 0, stream, args);
  });
}

}  // namespace farspan::kernels::cuda
