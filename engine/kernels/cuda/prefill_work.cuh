// SPDX-License-Identifier: Apache-2.0
// Which part of a prefill attention call a thread block computes: the heads of one KV head that it can take together,
// over one tile, and the list that they read.
#pragma once

#include <cstdint>

#include "engine/kernels/args.h"
#include "engine/kernels/cuda/device.cuh"

namespace farspan::kernels::cuda {

// Positions are counted from the tile's first query, clamped to this.
inline constexpr int kFarAway = 1 << 30;

__device__ inline int FromTile(int64_t position, int64_t first_position) {
  if (position >= first_position + kFarAway) return kFarAway;
  if (position <= first_position - kFarAway) return -kFarAway;
  return static_cast<int>(position - first_position);
}

// What one thread block computes: `num_heads` heads of one KV head, which read the same list, over one tile. Row r of
// its queries is query r / num_heads of head first_head + r % num_heads.
struct PrefillWork {
  PrefillTile tile;
  const KvEntry* entries;      // of the list
  const int32_t* kept_blocks;  // null where the whole list is read
  int num_pieces;              // of entries, that are read
  int kv_head;
  int first_head;
  int num_heads;
  uint32_t head_mask;  // bits of the heads within the GQA group
  int last_query;      // num_queries - 1
  int window;          // left_window, at most kFarAway

  // Most work is of one head, and divisions are slow.
  __device__ int Query(int row) const { return num_heads == 1 ? row : row / num_heads; }
  __device__ int Head(int row) const { return num_heads == 1 ? 0 : row % num_heads; }
  // Index of a row's vector in the batch; negative where the row has no query.
  __device__ int64_t VectorIndex(const AttentionCommon& common, int row) const {
    const int query = Query(row);
    return query > last_query ? -1 : (tile.row + query) * common.num_heads + first_head + Head(row);
  }
};

// Whether lists `a` and `b` name the same entries in the same place, through the same part of the block mask.
__device__ inline bool ReadsSame(const PrefillAttentionArgs& args, int64_t a, int64_t b) {
  const KvList list_a = args.lists[a], list_b = args.lists[b];
  if (list_a.entries_begin != list_b.entries_begin || list_a.num_entries != list_b.num_entries) return false;
  if (args.kept_ranges == nullptr) return true;
  const BlockRange range_a = args.kept_ranges[a], range_b = args.kept_ranges[b];
  return range_a.num_blocks == range_b.num_blocks &&
         (range_a.num_blocks == kAllBlocks || range_a.begin == range_b.begin);
}

// Entries of a list that the kept blocks hold.
__device__ inline int64_t NumKeptEntries(const PrefillAttentionArgs& args, const KvList& list,
                                         const BlockRange& range) {
  if (range.num_blocks == kAllBlocks) return list.num_entries;
  if (range.num_blocks == 0) return 0;
  const int64_t block_entries = MaskBlockEntries(args.common.cache.page_tokens);
  const int64_t last_end = (args.kept_blocks[range.begin + range.num_blocks - 1] + int64_t{1}) * block_entries;
  const int64_t beyond = last_end > list.num_entries ? last_end - list.num_entries : 0;
  return range.num_blocks * block_entries - beyond;
}

// Finds the work of the thread block that stands for `head` of the tile; false where another one does it, since few
// queries leave room for further heads that read the same. Called by one whole warp; its first lane writes `work`.
__device__ inline bool FindWork(const PrefillAttentionArgs& args, int64_t tile_index, int head, int block_keys,
                                PrefillWork* work) {
  const AttentionCommon& common = args.common;
  const int group = static_cast<int>(common.num_heads / common.cache.num_kv_heads);
  const PrefillTile tile = args.tiles[tile_index];
  const int kv_head = head / group, lane = static_cast<int>(threadIdx.x % kWarpThreads);
  const int room = static_cast<int>(kPrefillTileQueries / (tile.num_queries < 1 ? 1 : tile.num_queries));
  const int first = head % group / room * room, end = first + room < group ? first + room : group;
  const int64_t list_index = tile_index * common.num_heads + head;
  const int64_t first_list = list_index - head % group + first;
  const bool together = __all_sync(kWholeWarp, first + lane >= end || ReadsSame(args, first_list, first_list + lane));
  if (together && head % group != first) return false;
  if (lane != 0) return true;
  const KvList list = args.lists[list_index];
  const BlockRange range = args.kept_ranges == nullptr ? BlockRange() : args.kept_ranges[list_index];
  const int64_t parts = (common.cache.page_tokens + block_keys - 1) / block_keys;
  const int num_heads = together ? end - first : 1;
  *work = {
      .tile = tile,
      .entries = common.entries + list.entries_begin,
      .kept_blocks = range.num_blocks == kAllBlocks ? nullptr : args.kept_blocks + range.begin,
      .num_pieces = static_cast<int>(NumKeptEntries(args, list, range) * parts),
      .kv_head = kv_head,
      .first_head = head,
      .num_heads = num_heads,
      .head_mask = (num_heads == 32 ? kAllHeads : (1u << num_heads) - 1) << head % group,
      .last_query = static_cast<int>(tile.num_queries) - 1,
      .window = tile.left_window > kFarAway ? kFarAway : static_cast<int>(tile.left_window),
  };
  return true;
}

// The order of a grid's thread blocks: the last tiles, which see most, first, so that short ones fill the end. All
// heads of a tile go together: those of one KV head walk its pages side by side, and find them in L2.
struct Place {
  int64_t tile;
  int head;
  int first_row;
};

__device__ inline Place FindPlace(const PrefillAttentionArgs& args, int rows) {
  const auto num_heads = static_cast<unsigned>(args.common.num_heads);
  const auto parts = static_cast<unsigned>(kPrefillTileQueries / rows), index = blockIdx.x / parts;
  return {.tile = args.num_tiles - 1 - index / num_heads,
          .head = static_cast<int>(index % num_heads),
          .first_row = static_cast<int>((parts - 1 - blockIdx.x % parts) * static_cast<unsigned>(rows))};
}

}  // namespace farspan::kernels::cuda
