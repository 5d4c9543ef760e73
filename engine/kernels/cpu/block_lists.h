// SPDX-License-Identifier: Apache-2.0
// What scoring and picking blocks share at every ISA level: where a block's bounds lie, the order of scores, and how
// the chosen blocks become a list.
// Internal linkage on purpose: each ISA level compiles its own copy with its own flags.
#pragma once

#include <bit>
#include <cstdint>

#include "engine/kernels/cpu/score_tiles.h"

namespace farspan::kernels {

// Element offset of the bounds from which a block of the row is scored that holds logical `token` of its context.
static inline int64_t BoundsOfToken(const SelectBlocksArgs& args, const SelectorRow& row, int64_t kv_head,
                                    int64_t token) {
  const KvLayerView& cache = args.cache;
  const int64_t page = args.entries[row.context.entries_begin + token / cache.page_tokens].page;
  if (row.block_tokens >= cache.page_tokens) return PageBoundsOffset(cache, page, kv_head);
  return RunBoundsOffset(cache, page, kv_head, token % cache.page_tokens / KeyBoundsTokens(cache.page_tokens));
}

// Orders as scores do: greater for a higher score, equal for both zeros, greatest for a NaN.
static inline uint32_t OrderOfScore(float score) {
  const uint32_t bits = std::bit_cast<uint32_t>(score + 0.0f);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0xffffffffu;
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

// Where the list of (row, KV head) is named.
static inline KvList* ListOf(const SelectBlocksArgs& args, const SelectorRow& row, int64_t kv_head) {
  return args.lists + row.decode_row * args.cache.num_kv_heads + kv_head;
}

// A list under construction: where it begins in the entries and where the next one goes.
struct ListCursor {
  int64_t begin;
  int64_t next;
};

static inline void AppendList(const SelectBlocksArgs& args, const KvList& list, ListCursor* cursor) {
  for (int64_t i = 0; i < list.num_entries; ++i) args.entries[cursor->next++] = args.entries[list.entries_begin + i];
}

// The list of (row, KV head) with the row's leading entries.
static inline ListCursor BeginList(const SelectBlocksArgs& args, const SelectorRow& row, int64_t kv_head) {
  const int64_t capacity = SelectedEntries(row, args.cache.page_tokens);
  const int64_t begin = row.slots_begin + kv_head * capacity;
  ListCursor cursor = {begin, begin};
  AppendList(args, row.leading, &cursor);
  return cursor;
}

// Appends block `index` of the context. Blocks come in ascending order.
static inline void AppendBlock(const SelectBlocksArgs& args, const SelectorRow& row, int64_t index,
                               ListCursor* cursor) {
  const int64_t page_tokens = args.cache.page_tokens;
  const KvEntry* context = args.entries + row.context.entries_begin;
  const int64_t end = (index + 1) * row.block_tokens;
  const int64_t step = row.block_tokens < page_tokens ? row.block_tokens : page_tokens;
  for (int64_t token = end - row.block_tokens; token < end; token += step) {
    KvEntry entry;
    entry.page = context[token / page_tokens].page;
    entry.first_valid = static_cast<int32_t>(token % page_tokens);
    entry.num_valid = static_cast<int32_t>(step);
    entry.position = token;
    args.entries[cursor->next++] = entry;
  }
}

// Adds the row's trailing entries and publishes the list.
static inline void FinishList(const SelectBlocksArgs& args, const SelectorRow& row, int64_t kv_head,
                              ListCursor* cursor) {
  AppendList(args, row.trailing, cursor);
  *ListOf(args, row, kv_head) = {cursor->begin, cursor->next - cursor->begin};
}

static inline int64_t NumPickTasks(const SelectionPass& pass) {
  return pass.args->num_rows * pass.args->cache.num_kv_heads;
}

}  // namespace farspan::kernels
