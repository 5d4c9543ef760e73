// SPDX-License-Identifier: Apache-2.0
// What prefill attention shares between ISA levels: how tiles are cut into tasks, which heads read the same entries,
// and queries as capped entries see them.
// Internal linkage on purpose: each ISA level compiles its own copy with its own flags.
#pragma once

#include <cstdint>

#include "engine/kernels/cpu/attention_walk.h"

namespace farspan::kernels {

static inline int64_t PrefillGroup(const AttentionCommon& common) {
  return common.num_heads / common.cache.num_kv_heads;
}

// Queries of a task: about 192 (query, head) pairs.
static inline int64_t QueriesPerTask(const AttentionCommon& common) {
  constexpr int64_t kMaxPairs = 192, kMostQueries = 64, kFewestQueries = 4;
  const int64_t queries = kMaxPairs / PrefillGroup(common);
  return queries > kMostQueries ? kMostQueries : (queries < kFewestQueries ? kFewestQueries : queries);
}

static inline int64_t MaxPairs(const AttentionCommon& common) { return QueriesPerTask(common) * PrefillGroup(common); }

static inline int64_t TasksPerTile(const AttentionCommon& common) {
  const int64_t queries = QueriesPerTask(common);
  return (kPrefillTileQueries + queries - 1) / queries;
}

static inline int64_t NumPrefillTasks(const PrefillAttentionArgs& args) {
  return args.num_tiles * TasksPerTile(args.common) * args.common.cache.num_kv_heads;
}

// A run of a tile's queries for one KV head.
struct PrefillTask {
  int64_t kv_head;
  int64_t left_window;
  int64_t row;  // of the first query
  int64_t first_position;
  int64_t num_queries;  // 0: there is nothing to do
  int64_t lists;        // index of the group's first list
};

// The last queries of a tile see most: they go first, so that no thread is left with them alone.
static inline PrefillTask PrefillTaskAt(const PrefillAttentionArgs& args, int64_t task) {
  const AttentionCommon& common = args.common;
  const int64_t num_kv_heads = common.cache.num_kv_heads, tasks = TasksPerTile(common);
  const int64_t piece = args.num_tiles * tasks - 1 - task / num_kv_heads, tile_index = piece / tasks;
  const PrefillTile& tile = args.tiles[tile_index];
  const int64_t first_query = piece % tasks * QueriesPerTask(common), left = tile.num_queries - first_query;
  PrefillTask at;
  at.kv_head = task % num_kv_heads;
  at.left_window = tile.left_window;
  at.row = tile.row + first_query;
  at.first_position = tile.first_position + first_query;
  at.num_queries = left <= 0 ? 0 : (left < QueriesPerTask(common) ? left : QueriesPerTask(common));
  at.lists = tile_index * common.num_heads + at.kv_head * PrefillGroup(common);
  return at;
}

// Whether lists `a` and `b` name the same entries in the same place, through the same part of the block mask.
static inline bool SameList(const PrefillAttentionArgs& args, int64_t a, int64_t b) {
  const KvList &list_a = args.lists[a], &list_b = args.lists[b];
  if (list_a.entries_begin != list_b.entries_begin || list_a.num_entries != list_b.num_entries) return false;
  if (args.kept_ranges == nullptr) return true;
  const BlockRange &range_a = args.kept_ranges[a], &range_b = args.kept_ranges[b];
  return range_a.num_blocks == range_b.num_blocks &&
         (range_a.begin == range_b.begin || range_a.num_blocks == kAllBlocks);
}

// Calls run_heads(index of their list, first head, end head) for runs of the group's heads that read the same entries.
template <typename RunHeads>
static inline void ForHeadRuns(const PrefillAttentionArgs& args, const PrefillTask& task, const RunHeads& run_heads) {
  const int64_t group = PrefillGroup(args.common);
  for (int64_t head = 0; head < group;) {
    int64_t end = head + 1;
    while (end < group && SameList(args, task.lists + head, task.lists + end)) ++end;
    run_heads(task.lists + head, head, end);
    head = end;
  }
}

// One head of one query.
struct QueryPair {
  int64_t position;
  int64_t head_in_group;
  const float* q;      // rotated to its own position
  int64_t turned_cap;  // the cap for which the turner holds this query; kNoQueryCap for none
};

// Queries turned for entries with a cap.
struct QueryTurner {
  const AttentionCommon* common;
  const PrefillTask* task;
  int64_t table_cap;    // the cap that cap_cos_sin holds; kNoQueryCap for none
  double* cap_cos_sin;  // [rope_dim]
  float* turn;          // [rope_dim]
  float* turned_q;      // [pairs][head_dim]
};

static inline int64_t QueryTurnerScratchBytes(const AttentionCommon& common) {
  const int64_t floats = common.rope_dim + MaxPairs(common) * common.cache.head_dim;
  return common.rope_dim * static_cast<int64_t>(sizeof(double)) + floats * static_cast<int64_t>(sizeof(float));
}

// Takes QueryTurnerScratchBytes() of `scratch`, which is aligned for doubles.
static inline QueryTurner MakeQueryTurner(const AttentionCommon& common, const PrefillTask& task, void* scratch) {
  QueryTurner turner;
  turner.common = &common;
  turner.task = &task;
  turner.table_cap = kNoQueryCap;
  turner.cap_cos_sin = static_cast<double*>(scratch);
  turner.turned_q = reinterpret_cast<float*>(turner.cap_cos_sin + common.rope_dim);
  turner.turn = turner.turned_q + MaxPairs(common) * common.cache.head_dim;
  return turner;
}

// The query of `*pair`, the index-th of the turner's, as an entry with `cap` sees it.
static inline const float* QueryForCap(int64_t index, int64_t cap, QueryPair* pair, QueryTurner* turner) {
  if (pair->position <= cap) return pair->q;
  const AttentionCommon& common = *turner->common;
  float* turned = turner->turned_q + index * common.cache.head_dim;
  if (pair->turned_cap == cap) return turned;
  if (turner->table_cap != cap) FillCapTable(common, cap, turner->cap_cos_sin);
  turner->table_cap = cap;
  const int64_t row = turner->task->row + pair->position - turner->task->first_position;
  FillTurn(turner->cap_cos_sin, common.rope_cos_sin + row * common.rope_dim, common.rope_dim, turner->turn);
  TurnQuery(pair->q, turner->turn, common.rope_dim, common.cache.head_dim, turned);
  pair->turned_cap = cap;
  return turned;
}

}  // namespace farspan::kernels
