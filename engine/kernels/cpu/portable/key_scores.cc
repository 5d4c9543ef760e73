// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <limits>

#include "engine/kernels/cpu/attention_walk.h"
#include "engine/kernels/cpu/number_formats.h"
#include "engine/kernels/cpu/portable/kernels.h"
#include "engine/kernels/cpu/portable/lane_dot.h"

namespace farspan::kernels::portable {
namespace {

struct Scratch {
  double* cap_cos_sin;  // [rope_dim]
  float* turn;          // [rope_dim]
  float* query;         // [head_dim]
  float* key;           // [head_dim]
};

int64_t NumTasks(const KeyScoresArgs& args) { return args.num_rows * args.common.cache.num_kv_heads; }

int64_t ScratchBytes(const KeyScoresArgs& args) {
  const int64_t floats = args.common.rope_dim + 2 * args.common.cache.head_dim;
  return args.common.rope_dim * static_cast<int64_t>(sizeof(double)) + floats * static_cast<int64_t>(sizeof(float));
}

Scratch CarveScratch(const AttentionCommon& common, void* memory) {
  Scratch parts;
  parts.cap_cos_sin = static_cast<double*>(memory);
  parts.turn = reinterpret_cast<float*>(parts.cap_cos_sin + common.rope_dim);
  parts.query = parts.turn + common.rope_dim;
  parts.key = parts.query + common.cache.head_dim;
  return parts;
}

// One list's keys as the queries of a row see them.
struct Scorer {
  const KeyScoresArgs& args;
  const KeyScoreRow& row;
  int64_t kv_head;
  Scratch scratch;

  int64_t group() const { return args.common.num_heads / args.common.cache.num_kv_heads; }

  void LoadKey(const KvEntry& entry, int64_t token) const {
    const KvLayerView& cache = args.common.cache;
    const int64_t offset = KeyOffset(cache, entry.page, kv_head) + token * cache.head_dim;
    WithKvElement(cache.element, [&]<typename Element>() {
      const auto* values = static_cast<const Element*>(cache.data) + offset;
      for (int64_t i = 0; i < cache.head_dim; ++i) scratch.key[i] = Widen(values[i]);
    });
  }

  // Of the loaded key, which is token `token` of its page.
  float Score(const KvEntry& entry, int64_t token, int64_t query, int64_t head) const {
    const AttentionCommon& common = args.common;
    const int64_t head_dim = common.cache.head_dim, position = row.first_position + query;
    const int64_t index = (row.row + query) * common.num_heads + kv_head * group() + head;
    const TokenSpan span = VisibleTokens(entry, position, row.left_window);
    if (!ReadsEntry(entry, head) || token < span.begin || token >= span.end) {
      return args.score == KeyScore::kLogit ? -std::numeric_limits<float>::infinity() : 0.0f;
    }
    const float* q = common.q_f32() + index * head_dim;
    if (position > entry.query_cap) {
      FillCapTable(common, entry.query_cap, scratch.cap_cos_sin);
      FillTurn(scratch.cap_cos_sin, common.rope_cos_sin + (row.row + query) * common.rope_dim, common.rope_dim,
               scratch.turn);
      TurnQuery(q, scratch.turn, common.rope_dim, head_dim, scratch.query);
      q = scratch.query;
    }
    const float logit = LaneDot(q, scratch.key, head_dim) * common.scale;
    return args.score == KeyScore::kLogit ? logit : std::exp(logit - common.lse[index]);
  }

  float FoldQuery(const KvEntry& entry, int64_t token, int64_t query, int64_t first_head, int64_t num_heads) const {
    if (num_heads == 1) return Score(entry, token, query, first_head);
    float folded = ScoreFoldStart(args.over_group);
    for (int64_t head = first_head; head < first_head + num_heads; ++head) {
      folded = FoldScore(args.over_group, folded, Score(entry, token, query, head));
    }
    return folded;
  }
};

// The scores of one token for every cell of its column.
void ScoreToken(const Scorer& scorer, const KvEntry& entry, int64_t token, bool begins_column, float* column) {
  const KeyScoresArgs& args = scorer.args;
  const bool fold_group = args.over_group != ScoreFold::kNone, fold_queries = args.over_queries != ScoreFold::kNone;
  const int64_t heads = fold_group ? scorer.group() : 1, queries = fold_queries ? scorer.row.num_queries : 1;
  scorer.LoadKey(entry, token);
  for (int64_t head = 0; head < scorer.group(); head += heads) {
    for (int64_t query = 0; query < scorer.row.num_queries; query += queries) {
      float score = ScoreFoldStart(args.over_queries);
      for (int64_t i = query; i < query + queries; ++i) {
        const float own = scorer.FoldQuery(entry, token, i, head, heads);
        score = fold_queries ? FoldScore(args.over_queries, score, own) : own;
      }
      const int64_t head_cell = fold_group ? 0 : head, query_cell = fold_queries ? 0 : query;
      float& cell = column[(head_cell * (fold_queries ? 1 : args.max_queries) + query_cell) * args.max_columns];
      cell = begins_column ? score : FoldScore(args.over_columns, cell, score);
    }
  }
}

void Run(const KeyScoresArgs& args, int64_t task, void* memory) {
  const int64_t num_kv_heads = args.common.cache.num_kv_heads;
  const Scorer scorer = {args, args.rows[task / num_kv_heads], task % num_kv_heads, CarveScratch(args.common, memory)};
  const int64_t head_cells = args.over_group == ScoreFold::kNone ? scorer.group() : 1;
  const int64_t query_cells = args.over_queries == ScoreFold::kNone ? args.max_queries : 1;
  float* const scores = args.scores + task * head_cells * query_cells * args.max_columns;
  const KvList list = args.lists[task];
  int64_t previous_column = -1;
  for (int64_t e = list.entries_begin; e < list.entries_begin + list.num_entries; ++e) {
    const KvEntry& entry = args.common.entries[e];
    for (int64_t i = 0; i < entry.num_valid; ++i) {
      const int64_t column = (entry.position + i) / args.column_tokens;
      ScoreToken(scorer, entry, entry.first_valid + i, column != previous_column, scores + column);
      previous_column = column;
    }
  }
}

}  // namespace

constinit const KernelOp<KeyScoresArgs> kKeyScores = {NumTasks, ScratchBytes, Run};

}  // namespace farspan::kernels::portable
