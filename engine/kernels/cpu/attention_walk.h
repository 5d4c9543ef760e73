// SPDX-License-Identifier: Apache-2.0
// How both attention kernels read a list: runs of entries of one page, what a query sees of an entry, and the query as
// an entry with a cap sees it. Every ISA level follows these, so that they agree on semantics.
// Internal linkage on purpose: each ISA level compiles its own copy with its own flags.
#pragma once

#include <cmath>
#include <cstdint>

#include "engine/kernels/args.h"

namespace farspan::kernels {

// End of the run of entries that starts at `begin` and shares its page: one softmax update.
static inline int64_t PageRunEnd(const KvEntry* entries, int64_t begin, int64_t end) {
  int64_t next = begin + 1;
  while (next < end && entries[next].page == entries[begin].page) ++next;
  return next;
}

// Token indices in the page, half-open; empty when begin >= end.
struct TokenSpan {
  int32_t begin;
  int32_t end;
};

// What any of the queries at positions [first, last] sees of an entry that its head reads: no token in between is
// unseen by all of them, since windows of neighbouring queries touch.
static inline TokenSpan VisibleTokens(const KvEntry& entry, int64_t first, int64_t last, int64_t left_window) {
  const int64_t first_visible = first - left_window + 1;  // cannot overflow: both are at least 0
  int64_t begin = 0;
  if (!entry.ignores_left_window && first_visible > entry.position) begin = first_visible - entry.position;
  int64_t end = last - entry.position + 1;
  if (end > entry.num_valid) end = entry.num_valid;
  if (begin >= end) return {0, 0};
  return {static_cast<int32_t>(entry.first_valid + begin), static_cast<int32_t>(entry.first_valid + end)};
}

static inline TokenSpan VisibleTokens(const KvEntry& entry, int64_t position, int64_t left_window) {
  return VisibleTokens(entry, position, position, left_window);
}

static inline bool ReadsEntry(const KvEntry& entry, int64_t head_in_group) {
  return (entry.head_mask >> head_in_group & 1u) != 0;
}

// Calls `body(KvList)` for each part of the list of (tile, head) `index` that is read, in order.
template <typename Body>
static inline void ForEachKeptPart(const PrefillAttentionArgs& args, int64_t index, const Body& body) {
  const KvList list = args.lists[index];
  const BlockRange range = args.kept_ranges == nullptr ? BlockRange() : args.kept_ranges[index];
  if (range.num_blocks == kAllBlocks) return body(list);
  const int64_t block_entries = MaskBlockEntries(args.common.cache.page_tokens);
  for (int64_t i = range.begin; i < range.begin + range.num_blocks; ++i) {
    const int64_t first = args.kept_blocks[i] * block_entries;
    const int64_t left = list.num_entries - first;
    body(KvList{list.entries_begin + first, left < block_entries ? left : block_entries});
  }
}

// cos_sin[i] = {cos, sin} of cap * inverse_frequencies[i], [rope_dim / 2][2].
static inline void FillCapTable(const AttentionCommon& common, int64_t cap, double* cos_sin) {
  for (int64_t i = 0; i < common.rope_dim / 2; ++i) {
    const double angle = static_cast<double>(cap) * common.inverse_frequencies[i];
    cos_sin[2 * i] = std::cos(angle);
    cos_sin[2 * i + 1] = std::sin(angle);
  }
}

// turn[i] = {cos, sin} of the angle from the query's own position (row_cos_sin) to the cap's, [rope_dim / 2][2].
static inline void FillTurn(const double* cap_cos_sin, const float* row_cos_sin, int64_t rope_dim, float* turn) {
  for (int64_t i = 0; i < rope_dim; i += 2) {
    const double cap_cos = cap_cos_sin[i], cap_sin = cap_cos_sin[i + 1];
    const double row_cos = row_cos_sin[i], row_sin = row_cos_sin[i + 1];
    turn[i] = static_cast<float>(cap_cos * row_cos + cap_sin * row_sin);
    turn[i + 1] = static_cast<float>(cap_sin * row_cos - cap_cos * row_sin);
  }
}

// out = q with each pair of its first rope_dim channels turned.
static inline void TurnQuery(const float* q, const float* turn, int64_t rope_dim, int64_t head_dim, float* out) {
  for (int64_t i = 0; i < rope_dim; i += 2) {
    out[i] = q[i] * turn[i] - q[i + 1] * turn[i + 1];
    out[i + 1] = q[i] * turn[i + 1] + q[i + 1] * turn[i];
  }
  for (int64_t i = rope_dim; i < head_dim; ++i) out[i] = q[i];
}

// Element offset of K of (page, KV head); V follows plane_elements() later.
static inline int64_t KeyOffset(const KvLayerView& cache, int64_t page, int64_t kv_head) {
  return (page * cache.num_kv_heads + kv_head) * 2 * cache.plane_elements();
}

}  // namespace farspan::kernels
