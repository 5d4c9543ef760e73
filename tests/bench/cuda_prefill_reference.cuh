// SPDX-License-Identifier: Apache-2.0
// Prefill attention in float64 on the device, for sampled queries: what the benchmarks' checks compare with.
#pragma once

#include <cuda_fp8.h>

#include "engine/kernels/args.h"
#include "engine/kernels/cuda/device.cuh"

namespace farspan::kernels::cuda {

struct Sample {
  int64_t tile;
  int64_t query;
  int64_t head;
};

inline constexpr int kReferenceThreads = 1024;

__device__ inline double LoadCached(const KvLayerView& cache, int64_t index) {
  switch (cache.element) {
    case KvElement::kBf16:
      return LoadBf16(static_cast<const uint16_t*>(cache.data), index);
    case KvElement::kF16:
      return __half2float(static_cast<const __half*>(cache.data)[index]);
    case KvElement::kF8E4M3:
      return static_cast<float>(static_cast<const __nv_fp8_e4m3*>(cache.data)[index]);
    case KvElement::kF32:
      break;
  }
  return static_cast<const float*>(cache.data)[index];
}

// What one block works at.
struct SampledQuery {
  __device__ SampledQuery(const PrefillAttentionArgs& all, const Sample& sample)
      : args(all),
        tile(all.tiles[sample.tile]),
        head(sample.head),
        index(sample.tile * all.common.num_heads + sample.head),
        list(all.lists[index]),
        range(all.kept_ranges == nullptr ? BlockRange() : all.kept_ranges[index]),
        position(tile.first_position + sample.query),
        q(static_cast<const uint16_t*>(all.common.q) +
          ((tile.row + sample.query) * all.common.num_heads + sample.head) * all.common.cache.head_dim) {}

  // Token places of the list's entries, or of the kept blocks' entries one after the other.
  __device__ int64_t NumPlaces() const {
    const int64_t page = args.common.cache.page_tokens;
    return page * (range.num_blocks == kAllBlocks ? list.num_entries : range.num_blocks * MaskBlockEntries(page));
  }

  // The cache's row of the key at a place, -1 where there is none that the query sees.
  __device__ int64_t KeyRow(int64_t place, int64_t* query_cap) const {
    const KvLayerView& cache = args.common.cache;
    const int64_t page = cache.page_tokens, block_entries = MaskBlockEntries(page), token = place % page;
    const int64_t group = args.common.num_heads / cache.num_kv_heads;
    int64_t at = place / page;
    if (range.num_blocks != kAllBlocks) {
      at = args.kept_blocks[range.begin + at / block_entries] * block_entries + at % block_entries;
    }
    if (at >= list.num_entries) return -1;
    const KvEntry entry = args.common.entries[list.entries_begin + at];
    const int64_t key = entry.position + token;
    if (token >= entry.num_valid || (entry.head_mask >> (head % group) & 1u) == 0 || key > position ||
        (!entry.ignores_left_window && key <= position - tile.left_window)) {
      return -1;
    }
    *query_cap = entry.query_cap;
    return (entry.page * cache.num_kv_heads + head / group) * 2 * page + entry.first_valid + token;
  }

  __device__ double Score(int64_t key_row, int64_t query_cap) const {
    const AttentionCommon& common = args.common;
    const int64_t key = key_row * common.cache.head_dim;
    double dot = 0;
    for (int64_t d = 0; d < common.cache.head_dim; d += 2) {
      double even = LoadBf16(q, d), odd = LoadBf16(q, d + 1);
      if (position > query_cap && d < common.rope_dim) {
        const double angle = static_cast<double>(query_cap - position) * common.inverse_frequencies[d / 2];
        const double turned = even * cos(angle) - odd * sin(angle);
        odd = even * sin(angle) + odd * cos(angle);
        even = turned;
      }
      dot += even * LoadCached(common.cache, key + d) + odd * LoadCached(common.cache, key + d + 1);
    }
    return dot * common.scale;
  }

  const PrefillAttentionArgs& args;
  const PrefillTile tile;
  const int64_t head, index;
  const KvList list;
  const BlockRange range;
  const int64_t position;
  const uint16_t* const q;
};

// A sample a block of kReferenceThreads: results[sample][head_dim + 1], outputs and the log-sum-exp. `scratch` holds
// most_places values a sample.
__global__ void __launch_bounds__(kReferenceThreads)
    PrefillReferenceKernel(const __grid_constant__ PrefillAttentionArgs args, const Sample* samples, double* scratch,
                           int64_t most_places, double* results) {
  __shared__ double shared[2][kReferenceThreads];
  const SampledQuery query(args, samples[blockIdx.x]);
  const int64_t places = query.NumPlaces(), dim = args.common.cache.head_dim, page = args.common.cache.page_tokens;
  double* scores = scratch + blockIdx.x * most_places;
  int64_t query_cap = 0;
  double maximum = -INFINITY;
  for (int64_t i = threadIdx.x; i < places; i += kReferenceThreads) {
    const int64_t key_row = query.KeyRow(i, &query_cap);
    scores[i] = key_row < 0 ? -INFINITY : query.Score(key_row, query_cap);
    maximum = fmax(maximum, scores[i]);
  }
  shared[0][threadIdx.x] = maximum;
  __syncthreads();
  for (const double other : shared[0]) maximum = fmax(maximum, other);
  const int64_t d = threadIdx.x % dim, num_parts = kReferenceThreads / dim;
  double sum = 0, denominator = 0;
  for (int64_t i = threadIdx.x / dim; i < places; i += num_parts) {
    if (scores[i] == -INFINITY || threadIdx.x >= num_parts * dim) continue;
    const double weight = exp(scores[i] - maximum);
    denominator += weight;
    sum += weight * LoadCached(args.common.cache, (query.KeyRow(i, &query_cap) + page) * dim + d);
  }
  __syncthreads();
  shared[0][threadIdx.x] = denominator;
  shared[1][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x >= dim) return;
  sum = denominator = 0;
  for (int64_t i = d; i < num_parts * dim; i += dim) {
    denominator += shared[0][i];
    sum += shared[1][i];
  }
  results[blockIdx.x * (dim + 1) + d] = denominator == 0 ? 0 : sum / denominator;
  if (d == 0) results[blockIdx.x * (dim + 1) + dim] = denominator == 0 ? -INFINITY : maximum + log(denominator);
}

}  // namespace farspan::kernels::cuda
