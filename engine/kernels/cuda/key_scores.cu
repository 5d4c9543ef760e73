// SPDX-License-Identifier: Apache-2.0
// Scores of the keys of lists: a warp a column, its lanes over the channels in pairs, for any shape.
#include <algorithm>

#include "engine/kernels/cuda/key_scores.cuh"

namespace farspan::kernels::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarpThreads;
// The keys of one list as the queries of a row see them.
template <typename Element, typename Value>
struct Scorer {
  const KeyScoresArgs& args;
  KeyScoreRow row;
  int64_t kv_head;
  int group;

  // Of token `token` of the entry, whose key is `key`.
  __device__ float Score(const KvEntry& entry, int64_t token, const LanePairs& key, int64_t query, int head) const {
    const AttentionCommon& common = args.common;
    const int64_t position = row.first_position + query, key_position = entry.position + token - entry.first_valid;
    const bool visible = (entry.head_mask >> head & 1u) != 0 && key_position <= position &&
                         (entry.ignores_left_window || position - key_position < row.left_window);
    if (!visible) return args.score == KeyScore::kLogit ? -INFINITY : 0.0f;
    const int head_dim = static_cast<int>(common.cache.head_dim);
    const int64_t index = (row.row + query) * common.num_heads + kv_head * group + head;
    LanePairs q = LoadPairs(static_cast<const Value*>(common.q) + index * head_dim, head_dim);
    if (position > entry.query_cap) Turn(common, row.row + query, entry.query_cap, &q);
    const float logit = Product(q, key) * common.scale;
    return args.score == KeyScore::kLogit ? logit : expf(logit - common.lse[index]);
  }

  // Folded over the heads and queries of a cell.
  __device__ float ScoreCell(const KvEntry& entry, int64_t token, int head_cell, int64_t query_cell) const {
    const KvLayerView& cache = args.common.cache;
    const Element* const keys = static_cast<const Element*>(cache.data) + entry.page * cache.page_elements() +
                                kv_head * 2 * cache.plane_elements();
    const LanePairs key = LoadPairs(keys + token * cache.head_dim, static_cast<int>(cache.head_dim));
    const bool fold_queries = args.over_queries != ScoreFold::kNone;
    if (!fold_queries) return ScoreHeads(entry, token, key, head_cell, query_cell);
    float score = ScoreFoldStart(args.over_queries);
    for (int64_t query = 0; query < row.num_queries; ++query) {
      score = FoldScore(args.over_queries, score, ScoreHeads(entry, token, key, head_cell, query));
    }
    return score;
  }

  __device__ float ScoreHeads(const KvEntry& entry, int64_t token, const LanePairs& key, int head_cell,
                              int64_t query) const {
    if (args.over_group == ScoreFold::kNone) return Score(entry, token, key, query, head_cell);
    float score = ScoreFoldStart(args.over_group);
    for (int head = 0; head < group; ++head) {
      score = FoldScore(args.over_group, score, Score(entry, token, key, query, head));
    }
    return score;
  }
};

// A grid of [splits][KV heads][rows]; warps take columns in turn.
template <typename Element, typename Value>
__global__ void __launch_bounds__(kThreads) KeyScoresKernel(KeyScoresArgs args) {
  LetNextStart();
  WaitForPrevious();
  const int64_t num_kv_heads = gridDim.y, task = blockIdx.z * num_kv_heads + blockIdx.y;
  const KvList list = args.lists[task];
  if (list.num_entries == 0) return;
  const KvEntry* const entries = args.common.entries + list.entries_begin;
  const Scorer<Element, Value> scorer = {args, args.rows[blockIdx.z], blockIdx.y,
                                         static_cast<int>(args.common.num_heads / num_kv_heads)};
  const int head_cells = args.over_group == ScoreFold::kNone ? scorer.group : 1;
  const bool fold_queries = args.over_queries != ScoreFold::kNone;
  const int64_t query_cells = fold_queries ? 1 : args.max_queries,
                used_query_cells = fold_queries ? 1 : scorer.row.num_queries;
  float* const scores = args.scores + task * head_cells * query_cells * args.max_columns;
  const KvEntry& last = entries[list.num_entries - 1];
  const int64_t num_columns = (last.position + last.num_valid - 1) / args.column_tokens + 1;
  const int64_t first_column =
      entries[0].position / args.column_tokens + blockIdx.x * kWarps + threadIdx.x / kWarpThreads;
  for (int64_t column = first_column; column < num_columns; column += int64_t{gridDim.x} * kWarps) {
    const int64_t begin = column * args.column_tokens, end = begin + args.column_tokens;
    const int64_t first = FindEntry(entries, list.num_entries, begin);
    if (entries[first].position >= end) continue;
    for (int head_cell = 0; head_cell < head_cells; ++head_cell) {
      for (int64_t query_cell = 0; query_cell < used_query_cells; ++query_cell) {
        float folded = ScoreFoldStart(args.over_columns);
        for (int64_t e = first; e < list.num_entries && entries[e].position < end; ++e) {
          const KvEntry entry = entries[e];
          const int64_t token_end = min(end - entry.position, static_cast<int64_t>(entry.num_valid));
          for (int64_t i = max(begin - entry.position, int64_t{0}); i < token_end; ++i) {
            const float score = scorer.ScoreCell(entry, entry.first_valid + i, head_cell, query_cell);
            folded = args.over_columns == ScoreFold::kNone ? score : FoldScore(args.over_columns, folded, score);
          }
        }
        if (threadIdx.x % kWarpThreads != 0) continue;
        scores[(head_cell * query_cells + query_cell) * args.max_columns + column] = folded;
      }
    }
  }
}

}  // namespace

cudaError_t LaunchKeyScores(const KeyScoresArgs& args, cudaStream_t stream) {
  if (args.num_rows == 0) return cudaSuccess;
  const KvLayerView& cache = args.common.cache;
  if (cache.head_dim % 2 != 0 || cache.head_dim > kMaxHeadDim) return cudaErrorInvalidValue;
  if (const cudaError_t error = LaunchKeyScoreTiles(args, stream); error != cudaErrorInvalidValue) return error;
  constexpr int64_t kBlocksPerMultiprocessor = 8, kFewestSplits = 8;
  const int64_t lists = args.num_rows * cache.num_kv_heads;
  const int64_t resident = kBlocksPerMultiprocessor * CurrentDeviceTraits().num_multiprocessors;
  const int64_t splits = std::min(std::max(resident / lists, kFewestSplits), (args.max_columns + kWarps - 1) / kWarps);
  const dim3 grid(static_cast<unsigned>(splits), static_cast<unsigned>(cache.num_kv_heads),
                  static_cast<unsigned>(args.num_rows));
  return WithActivation(args.common.activation, [&]<typename Value>() {
    return WithKvElement(cache.element, [&]<typename Element>() {
      return LaunchKernel(KeyScoresKernel<Element, Value>, grid, kThreads, 0, stream, args);
    });
  });
}

}  // namespace farspan::kernels::cuda
