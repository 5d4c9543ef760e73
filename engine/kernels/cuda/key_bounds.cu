// SPDX-License-Identifier: Apache-2.0
// The bounds of runs and pages of keys: a stream over the keys, eight channels of a run a thread.
#include <algorithm>

#include "engine/kernels/cuda/extremes.cuh"
#include "engine/kernels/cuda/kernels.h"

namespace farspan::kernels::cuda {
namespace {

constexpr int64_t kThreads = 256;
constexpr int kTokensInFlight = 8;

// `num_tokens` is a multiple of kTokensInFlight.
template <typename Element>
__device__ Extremes8<Element> ExtremesOf(const Element* keys, int64_t num_tokens, int64_t head_dim) {
  Extremes8<Element> extremes = OneKey(keys);
  for (int64_t token = 0; token < num_tokens; token += kTokensInFlight) {
    Extremes8<Element> loaded[kTokensInFlight];
#pragma unroll
    for (int i = 0; i < kTokensInFlight; ++i) loaded[i] = OneKey(keys + (token + i) * head_dim);
#pragma unroll
    for (int i = 0; i < kTokensInFlight; ++i) Widen(loaded[i], &extremes);
  }
  return extremes;
}

// Threads are [heads and groups][vectors of a head]. A group of `runs_per_group` entries of the list is one thread's,
// which has read the whole page where they are all of its runs, in order.
template <typename Element>
__global__ void FillKernel(FillKeyBoundsArgs args, int64_t runs_per_group) {
  LetNextStart();
  WaitForPrevious();
  const KvLayerView& cache = args.cache;
  const int64_t head_dim = cache.head_dim, run_tokens = KeyBoundsTokens(cache.page_tokens);
  const int64_t runs = cache.page_tokens / run_tokens, channel = threadIdx.x * kVectorValues;
  const int64_t task = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  const int64_t kv_head = task % cache.num_kv_heads, first = task / cache.num_kv_heads * runs_per_group;
  Element* const bounds = static_cast<Element*>(args.bounds.data) + channel;
  Extremes8<Element> page;
  int64_t in_order = 0;  // entries so far that are the first runs of one page
  int32_t previous_page = -1;
  for (int64_t i = first; i < first + runs_per_group && i < args.num_runs; ++i) {
    const KeyRun run = args.runs[i];
    if (run.page < 0) continue;
    const Element* keys = static_cast<const Element*>(cache.data) + channel + run.page * cache.page_elements() +
                          kv_head * 2 * cache.plane_elements();
    const Extremes8<Element> own = ExtremesOf(keys + run.run * run_tokens * head_dim, run_tokens, head_dim);
    StoreBounds(own, head_dim, bounds + RunBoundsOffset(cache, run.page, kv_head, run.run));
    if (run.run == 0) {
      page = own;
      in_order = 1;
    } else if (run.page == previous_page && run.run == in_order) {
      Widen(own, &page);
      ++in_order;
    } else {
      in_order = 0;
    }
    previous_page = run.page;
    if (runs == 1 || run.run != runs - 1) continue;
    if (in_order != runs) page = ExtremesOf(keys, cache.page_tokens, head_dim);
    StoreBounds(page, head_dim, bounds + PageBoundsOffset(cache, run.page, kv_head));
  }
}

}  // namespace

cudaError_t LaunchFillKeyBounds(const FillKeyBoundsArgs& args, cudaStream_t stream) {
  if (args.num_runs == 0) return cudaSuccess;
  const KvLayerView& cache = args.cache;
  const int64_t run_tokens = KeyBoundsTokens(cache.page_tokens);
  const bool fits = cache.head_dim % kVectorValues == 0 && cache.head_dim <= kMaxHeadDim &&
                    run_tokens % kTokensInFlight == 0 && cache.page_tokens % run_tokens == 0;
  if (!fits) return cudaErrorInvalidValue;
  // A step's few new runs are spread over threads; many are read a page a thread.
  constexpr int64_t kFewRuns = 512;
  const int64_t runs_per_group = args.num_runs < kFewRuns ? 1 : cache.page_tokens / run_tokens;
  const int64_t tasks = (args.num_runs + runs_per_group - 1) / runs_per_group * cache.num_kv_heads;
  const int64_t vectors = cache.head_dim / kVectorValues, tasks_per_block = kThreads / vectors;
  const dim3 block(static_cast<unsigned>(vectors), static_cast<unsigned>(tasks_per_block));
  const auto grid = static_cast<unsigned>((tasks + tasks_per_block - 1) / tasks_per_block);
  return WithKvElement(cache.element, [&]<typename Element>() {
    return LaunchKernel(FillKernel<Element>, grid, block, 0, stream, args, runs_per_group);
  });
}

}  // namespace farspan::kernels::cuda
