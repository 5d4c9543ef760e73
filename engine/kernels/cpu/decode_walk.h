// SPDX-License-Identifier: Apache-2.0
// What decode attention shares between ISA levels: the queries of a group as capped entries see them, tiles of heads,
// what is asked of memory ahead, and which partial states a row's merge takes.
// Internal linkage on purpose: each ISA level compiles its own copy with its own flags.
#pragma once

#include <cstdint>
#include <type_traits>

#include "engine/kernels/cpu/attention_walk.h"
#include "engine/kernels/cpu/decode_splits.h"

namespace farspan::kernels {

// The queries of one (row, KV head) and their copy turned for entries with a cap.
struct GroupQueries {
  const AttentionCommon* common;
  const DecodeRow* row;
  int64_t group;
  int64_t head_dim;
  const float* q;       // [group][head_dim]
  float* turned_q;      // [group][head_dim], q as entries with `turned_cap` see it
  double* cap_cos_sin;  // [rope_dim]
  float* turn;          // [rope_dim]
  int64_t turned_cap;   // kNoQueryCap while turned_q holds nothing
};

static inline int64_t GroupQueriesScratchBytes(const AttentionCommon& common) {
  return common.rope_dim * static_cast<int64_t>(sizeof(double)) +
         (DecodeGroup(common) * common.cache.head_dim + common.rope_dim) * static_cast<int64_t>(sizeof(float));
}

// Takes GroupQueriesScratchBytes() of `scratch`, which is aligned for doubles.
static inline GroupQueries MakeGroupQueries(const DecodePass& pass, const DecodeSplit& split, void* scratch) {
  const AttentionCommon& common = pass.args->common;
  GroupQueries queries;
  queries.common = &common;
  queries.row = &pass.args->rows[split.row_index];
  queries.group = DecodeGroup(common);
  queries.head_dim = common.cache.head_dim;
  queries.q = common.q_f32() + (queries.row->row * common.num_heads + split.kv_head * queries.group) * queries.head_dim;
  queries.cap_cos_sin = static_cast<double*>(scratch);
  queries.turned_q = reinterpret_cast<float*>(queries.cap_cos_sin + common.rope_dim);
  queries.turn = queries.turned_q + queries.group * queries.head_dim;
  queries.turned_cap = kNoQueryCap;
  return queries;
}

// The group's queries as an entry with `cap` sees them.
static inline const float* QueriesForCap(int64_t cap, GroupQueries* queries) {
  if (queries->row->position <= cap) return queries->q;
  if (queries->turned_cap != cap) {
    const AttentionCommon& common = *queries->common;
    FillCapTable(common, cap, queries->cap_cos_sin);
    FillTurn(queries->cap_cos_sin, common.rope_cos_sin + queries->row->row * common.rope_dim, common.rope_dim,
             queries->turn);
    for (int64_t head = 0; head < queries->group; ++head) {
      TurnQuery(queries->q + head * queries->head_dim, queries->turn, common.rope_dim, queries->head_dim,
                queries->turned_q + head * queries->head_dim);
    }
    queries->turned_cap = cap;
  }
  return queries->turned_q;
}

static inline bool AnyHeadReads(const KvEntry& entry, int64_t first_head, int64_t num_heads) {
  const uint64_t heads = ((uint64_t{1} << num_heads) - 1) << first_head;
  return (entry.head_mask & heads) != 0;
}

// The group is taken in tiles of up to three heads: calls body(first head, integral constant of the heads in the tile).
template <typename Body>
static inline void ForHeadTiles(int64_t group, const Body& body) {
  int64_t head = 0;
  for (; head + 3 <= group; head += 3) body(head, std::integral_constant<int, 3>());
  if (group - head == 2) body(head, std::integral_constant<int, 2>());
  if (group - head == 1) body(head, std::integral_constant<int, 1>());
}

// The lines of a later page, asked for a few at a time into the second-level cache: the first level has too few miss
// buffers to keep memory busy, pages lie scattered, and hardware prefetchers stop at their borders.
struct PagePrefetch {
  const char* next = nullptr;
  const char* end = nullptr;

  void Take(int64_t lines) {
    constexpr int64_t kLineBytes = 64;
    constexpr int kSecondLevel = 2;
    for (int64_t i = 0; i < lines && next < end; ++i, next += kLineBytes) __builtin_prefetch(next, 0, kSecondLevel);
  }
};

// Lines of `count` elements, at least one.
template <typename Element>
static inline int64_t LinesOf(int64_t count) {
  return (count * static_cast<int64_t>(sizeof(Element)) + 63) / 64;
}

// K and V of the second page from entry `next` of split `task` on, the next splits' included: threads take splits in
// order.
static inline PagePrefetch PrefetchAhead(const DecodePass& pass, int64_t task, int64_t next) {
  const AttentionCommon& common = pass.args->common;
  int64_t entry = next + 1;
  for (; task < pass.num_splits; ++task) {
    const DecodeSplit& split = pass.splits[task];
    if (entry < split.list.num_entries) {
      const int64_t element_bytes = common.cache.element_bytes();
      const int32_t page = common.entries[split.list.entries_begin + entry].page;
      const char* keys =
          static_cast<const char*>(common.cache.data) + KeyOffset(common.cache, page, split.kv_head) * element_bytes;
      return {keys, keys + 2 * common.cache.plane_elements() * element_bytes};
    }
    entry -= split.list.num_entries;
  }
  return {};
}

// Calls merge_head(first split, end split, head of the group, out, lse or null) for each query head of row `task`.
template <typename MergeHead>
static inline void ForMergedHeads(const DecodePass& pass, int64_t task, const MergeHead& merge_head) {
  const AttentionCommon& common = pass.args->common;
  const int64_t group = DecodeGroup(common), num_kv_heads = common.cache.num_kv_heads;
  for (int64_t kv_head = 0; kv_head < num_kv_heads; ++kv_head) {
    const int64_t* first_split = pass.first_split + task * num_kv_heads + kv_head;
    for (int64_t head = 0; head < group; ++head) {
      const int64_t index = pass.args->rows[task].row * common.num_heads + kv_head * group + head;
      float* lse = common.lse == nullptr ? nullptr : common.lse + index;
      merge_head(first_split[0], first_split[1], head, common.out_f32() + index * common.cache.head_dim, lse);
    }
  }
}

}  // namespace farspan::kernels
