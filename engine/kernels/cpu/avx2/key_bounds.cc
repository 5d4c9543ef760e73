// SPDX-License-Identifier: Apache-2.0
// One pass over a block's bounds scores it for all query heads of the group. With q+ = max(q, 0) and q- = min(q, 0) the
// bound is a dot product of twice the length: q+ . largest + q- . smallest.
#include <cstring>

#include "engine/kernels/cpu/attention_walk.h"
#include "engine/kernels/cpu/avx2/kernels.h"
#include "engine/kernels/cpu/avx2/simd.h"
#include "engine/kernels/cpu/block_lists.h"
#include "engine/kernels/cpu/row_tasks.h"

namespace farspan::kernels::avx2 {
namespace {

constexpr int64_t kRunsPerFillTask = 4;

inline void StoreLanes(float* out, __m256 values) { _mm256_storeu_ps(out, values); }

// Of values that bf16 holds exactly, or NaN.
inline void StoreLanes(Bf16* out, __m256 values) {
  const __m256i bits = _mm256_srli_epi32(_mm256_castps_si256(values), 16);
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(bits, bits), 0xd8);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm256_castsi256_si128(packed));
}

// The same of float16.
inline void StoreLanes(Half* out, __m256 values) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm256_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT));
}

// And of fp8, one by one.
inline void StoreLanes(Fp8* out, __m256 values) {
  float lanes[kLanes];
  _mm256_storeu_ps(lanes, values);
  for (int64_t i = 0; i < kLanes; ++i) Narrow(lanes[i], out + i);
}

int64_t NumFillTasks(const FillKeyBoundsArgs& args) {
  return (args.num_runs + kRunsPerFillTask - 1) / kRunsPerFillTask;
}

template <typename Element>
void FillTokens(const Element* keys, int64_t num_tokens, int64_t head_dim, Element* bounds) {
  for (int64_t i = 0; i < head_dim; i += kLanes) {
    __m256 smallest = LoadLanes(keys + i), largest = smallest;
    __m256 unordered = _mm256_cmp_ps(smallest, smallest, _CMP_UNORD_Q);
    for (int64_t token = 1; token < num_tokens; ++token) {
      const __m256 key = LoadLanes(keys + token * head_dim + i);
      smallest = _mm256_min_ps(smallest, key);
      largest = _mm256_max_ps(largest, key);
      unordered = _mm256_or_ps(unordered, _mm256_cmp_ps(key, key, _CMP_UNORD_Q));
    }
    StoreLanes(bounds + i, _mm256_or_ps(smallest, unordered));  // all bits set is a NaN
    StoreLanes(bounds + head_dim + i, _mm256_or_ps(largest, unordered));
  }
}

template <typename Element>
void FillRun(const FillKeyBoundsArgs& args, const KeyRun& run) {
  const KvLayerView& cache = args.cache;
  const int64_t run_tokens = KeyBoundsTokens(cache.page_tokens), runs = cache.page_tokens / run_tokens;
  Element* const bounds = static_cast<Element*>(args.bounds.data);
  for (int64_t kv_head = 0; kv_head < cache.num_kv_heads; ++kv_head) {
    const Element* keys = static_cast<const Element*>(cache.data) + KeyOffset(cache, run.page, kv_head);
    FillTokens(keys + run.run * run_tokens * cache.head_dim, run_tokens, cache.head_dim,
               bounds + RunBoundsOffset(cache, run.page, kv_head, run.run));
    if (runs > 1 && run.run == runs - 1) {
      FillTokens(keys, cache.page_tokens, cache.head_dim, bounds + PageBoundsOffset(cache, run.page, kv_head));
    }
  }
}

void RunFill(const FillKeyBoundsArgs& args, int64_t task, void*) {
  const int64_t begin = task * kRunsPerFillTask, end = begin + kRunsPerFillTask;
  for (int64_t i = begin; i < end && i < args.num_runs; ++i) {
    if (args.runs[i].page < 0) continue;
    WithKvElement(args.cache.element, [&]<typename Element>() { FillRun<Element>(args, args.runs[i]); });
  }
}

int64_t NumScoreTasks(const SelectionPass& pass) { return pass.num_tiles; }

// q+ and q- of the group, [group][2][head_dim], then the combined bounds of a block, [2][head_dim].
int64_t ScoreScratchBytes(const SelectionPass& pass) {
  const int64_t vectors = 2 * SelectionGroup(*pass.args) + 2;
  return vectors * pass.args->cache.head_dim * static_cast<int64_t>(sizeof(float));
}

void SplitQueries(const float* q, int64_t group, int64_t head_dim, float* parts) {
  const __m256 zero = _mm256_setzero_ps();
  for (int64_t head = 0; head < group; ++head) {
    for (int64_t i = 0; i < head_dim; i += kLanes) {
      const __m256 query = _mm256_loadu_ps(q + head * head_dim + i);
      _mm256_storeu_ps(parts + head * 2 * head_dim + i, _mm256_min_ps(query, zero));
      _mm256_storeu_ps(parts + (head * 2 + 1) * head_dim + i, _mm256_max_ps(query, zero));
    }
  }
}

// Scores of kHeads query heads whose parts begin at `parts`; `bounds` is [min|max][head_dim].
template <int kHeads, typename Element>
inline void ScoreHeads(const float* parts, const Element* bounds, int64_t head_dim, float* scores, int64_t stride) {
  __m256 sums[kHeads];
  FARSPAN_UNROLL
  for (int h = 0; h < kHeads; ++h) sums[h] = _mm256_setzero_ps();
  for (int64_t i = 0; i < 2 * head_dim; i += kLanes) {
    const __m256 bound = LoadLanes(bounds + i);
    FARSPAN_UNROLL
    for (int h = 0; h < kHeads; ++h) {
      sums[h] = _mm256_fmadd_ps(_mm256_loadu_ps(parts + h * 2 * head_dim + i), bound, sums[h]);
    }
  }
  FARSPAN_UNROLL
  for (int h = 0; h < kHeads; ++h) scores[h * stride] = SumLanes(sums[h]);
}

template <typename Element>
void ScoreGroup(const float* parts, int64_t group, const Element* bounds, int64_t head_dim, float* scores,
                int64_t stride) {
  int64_t head = 0;
  for (; head + 4 <= group; head += 4) {
    ScoreHeads<4>(parts + head * 2 * head_dim, bounds, head_dim, scores + head * stride, stride);
  }
  for (; head + 3 <= group; head += 3) {
    ScoreHeads<3>(parts + head * 2 * head_dim, bounds, head_dim, scores + head * stride, stride);
  }
  for (; head < group; ++head) {
    ScoreHeads<1>(parts + head * 2 * head_dim, bounds, head_dim, scores + head * stride, stride);
  }
}

// The bounds of all runs or pages of a block in one: [2][head_dim] floats.
template <typename Element>
void CombineRuns(const SelectBlocksArgs& args, const SelectorRow& row, int64_t kv_head, int64_t begin, float* bounds) {
  const int64_t head_dim = args.cache.head_dim, step = KeyBoundsTokens(args.cache.page_tokens, row.block_tokens);
  const Element* data = static_cast<const Element*>(args.bounds.data);
  for (int64_t token = begin; token < begin + row.block_tokens; token += step) {
    const Element* run = data + BoundsOfToken(args, row, kv_head, token);
    for (int64_t i = 0; i < head_dim; i += kLanes) {
      __m256 smallest = LoadLanes(run + i), largest = LoadLanes(run + head_dim + i);
      if (token > begin) {
        const __m256 low = _mm256_loadu_ps(bounds + i), high = _mm256_loadu_ps(bounds + head_dim + i);
        const __m256 unordered = _mm256_cmp_ps(low, smallest, _CMP_UNORD_Q);
        smallest = _mm256_or_ps(_mm256_min_ps(low, smallest), unordered);
        largest = _mm256_or_ps(_mm256_max_ps(high, largest), unordered);
      }
      _mm256_storeu_ps(bounds + i, smallest);
      _mm256_storeu_ps(bounds + head_dim + i, largest);
    }
  }
}

template <typename Element>
void ScoreTileBlocks(const SelectionPass& pass, const ScoreTile& tile, float* scratch) {
  const SelectBlocksArgs& args = *pass.args;
  const SelectorRow& row = args.rows[tile.row_index];
  const int64_t group = SelectionGroup(args), head_dim = args.cache.head_dim;
  const int64_t stride = PaddedBlocks(row.num_blocks);
  float* scores = pass.scores + pass.first_score[tile.row_index * args.cache.num_kv_heads + tile.kv_head];
  SplitQueries(args.q_f32() + (row.row * args.num_heads + tile.kv_head * group) * head_dim, group, head_dim, scratch);
  float* combined = scratch + group * 2 * head_dim;
  const bool one_pair = row.block_tokens == KeyBoundsTokens(args.cache.page_tokens, row.block_tokens);
  const Element* data = static_cast<const Element*>(args.bounds.data);
  for (int64_t block = tile.begin; block < tile.end; ++block) {
    const int64_t token = block * row.block_tokens;
    if (one_pair) {
      ScoreGroup(scratch, group, data + BoundsOfToken(args, row, tile.kv_head, token), head_dim, scores + block,
                 stride);
    } else {
      CombineRuns<Element>(args, row, tile.kv_head, token, combined);
      ScoreGroup<float>(scratch, group, combined, head_dim, scores + block, stride);
    }
  }
}

void RunScore(const SelectionPass& pass, int64_t task, void* scratch) {
  WithKvElement(pass.args->cache.element, [&]<typename Element>() {
    ScoreTileBlocks<Element>(pass, pass.tiles[task], static_cast<float*>(scratch));
  });
}

}  // namespace

constinit const KernelOp<FillKeyBoundsArgs> kFillKeyBounds = {NumFillTasks, NoScratch, RunFill};
constinit const KernelOp<SelectionPass> kScoreKeyBounds = {NumScoreTasks, ScoreScratchBytes, RunScore};

}  // namespace farspan::kernels::avx2
