// SPDX-License-Identifier: Apache-2.0
// How a thread block walks the list of its tile: one warp turns up to 32 pieces of entries at a time into blocks of
// keys. Where blocks begin follows from the list alone, so that a query's result does not depend on the queries beside
// it; blocks that no query of the tile sees are left out afterwards.
#pragma once

#include <cstdint>

#include "engine/kernels/args.h"
#include "engine/kernels/cuda/device.cuh"
#include "engine/kernels/cuda/prefill_work.cuh"

namespace farspan::kernels::cuda {

// A piece of an entry: at most a block of its tokens.
struct PlanPiece {
  int row;    // of the cache, for the key at slot 0 of the block: row + slot is a key's
  int delta;  // position of the key at slot 0 of the block, from the tile's first query
  uint32_t head_mask;
  int16_t begin;  // first slot in the block
  int16_t end;    // past the last slot that some query sees
  int window;     // kFarAway where the entry ignores the queries' own
};

inline constexpr uint8_t kUneven = 0xff;

// What a block's queries see of it.
enum class Sight : uint8_t {
  kAll,         // every query every key
  kContiguous,  // as one run of positions that all heads read
  kByPiece,
};

struct alignas(8) PlanBlock {
  int whole_row;  // of the cache, for the key at slot 0 where one piece is the block, else negative
  bool is_plain;  // every query sees every key, with the cap of the block before
  bool is_last;   // of the plan
  uint16_t unused;
  uint8_t first_piece;
  uint8_t num_pieces;
  Sight sight;
  bool turns_query;  // the block before has another cap
  // Log2 of the pieces' lengths where those are equal and fill the block, else kUneven.
  uint8_t piece_shift;
  int tokens;
  int first_delta;  // least of its keys'
  int window;       // where contiguous
  int cap;          // from the tile's first query, kFarAway where no query stands beyond it
};

struct PrefillPlan {
  PlanPiece pieces[kWarpThreads];
  PlanBlock blocks[kWarpThreads];
  uint8_t first_pieces[kWarpThreads];  // of each group, seen or not
  int num_blocks;
};

// Where the walk stands between plans.
struct PlanCursor {
  int next_piece;
  int cap;  // of the last block planned
};

// The entry that virtual piece `index` of the list belongs to, and which of its pieces it is.
template <int kBlockKeys>
__device__ inline const KvEntry* FindPiece(const PrefillWork& work, int64_t page_tokens, int index, int* part) {
  const int parts = static_cast<int>((page_tokens + kBlockKeys - 1) / kBlockKeys);
  const int entry = parts == 1 ? index : index / parts;
  *part = parts == 1 ? 0 : index % parts;
  if (work.kept_blocks == nullptr) return work.entries + entry;
  const int block_entries = static_cast<int>(MaskBlockEntries(page_tokens));
  return work.entries + work.kept_blocks[entry / block_entries] * static_cast<int64_t>(block_entries) +
         entry % block_entries;
}

// Puts the warp's pieces (of `length` tokens, with caps) into groups of at most kBlockKeys tokens of equal cap, in
// order. Writes the lane's group and its first slot in it; returns how many groups are complete.
template <int kBlockKeys>
__device__ inline int GroupPieces(int length, int64_t cap, bool valid, bool list_ends, int* group, int* begin) {
  const unsigned lane = threadIdx.x % kWarpThreads;
  const int num_valid = __popc(__ballot_sync(kWholeWarp, valid));
  const int common = __shfl_sync(kWholeWarp, length, 0);
  const int64_t common_cap = __shfl_sync(kWholeWarp, cap, 0);
  const bool same =
      !valid || (cap == common_cap &&
                 (length == common || (static_cast<int>(lane) == num_valid - 1 && list_ends && length <= common)));
  int last_group = 0, last_sum = 0;
  if (__all_sync(kWholeWarp, same) && common > 0 && kBlockKeys % common == 0) {
    const int per_group = kBlockKeys / common;
    *group = static_cast<int>(lane) / per_group;
    *begin = static_cast<int>(lane) % per_group * common;
    last_group = (num_valid - 1) / per_group;
    last_sum = ((num_valid - 1) % per_group + 1) * common;
  } else {
    int64_t group_cap = common_cap;
    for (int i = 0; i < num_valid; ++i) {
      const int next = __shfl_sync(kWholeWarp, length, i);
      const int64_t next_cap = __shfl_sync(kWholeWarp, cap, i);
      if (i > 0 && (last_sum + next > kBlockKeys || next_cap != group_cap)) {
        ++last_group;
        last_sum = 0;
      }
      if (i == static_cast<int>(lane)) {
        *group = last_group;
        *begin = last_sum;
      }
      last_sum += next;
      group_cap = next_cap;
    }
  }
  return list_ends || last_group == 0 || last_sum == kBlockKeys ? last_group + 1 : last_group;
}

// What the tile's queries see of the block whose pieces are [block->first_piece, + num_pieces); false where nothing.
template <int kBlockKeys>
__device__ inline bool SeeBlock(const PrefillWork& work, const PlanPiece* pieces, PlanBlock* block) {
  const PlanPiece& first = pieces[block->first_piece];
  bool contiguous = true, all_heads = true, in_windows = true, one_window = true, any_seen = false;
  bool even = kBlockKeys % block->num_pieces == 0;
  int tokens = 0, num_keys = 0, least = kFarAway, most = -kFarAway;
  for (int i = block->first_piece; i < block->first_piece + block->num_pieces; ++i) {
    const PlanPiece& piece = pieces[i];
    const int length = piece.end - piece.begin;
    even = even && length * block->num_pieces == kBlockKeys;
    if (length <= 0) {
      contiguous = contiguous && i > block->first_piece;
      continue;
    }
    contiguous = contiguous && piece.delta == first.delta && piece.begin == tokens;
    all_heads = all_heads && (piece.head_mask & work.head_mask) == work.head_mask;
    one_window = one_window && piece.window == first.window;
    tokens = piece.end;
    num_keys += length;
    const int first_key = piece.delta + piece.begin, last_key = piece.delta + piece.end - 1;
    least = first_key < least ? first_key : least;
    most = last_key > most ? last_key : most;
    in_windows = in_windows && (piece.window == kFarAway || first_key > work.last_query - piece.window);
    any_seen =
        any_seen || ((piece.head_mask & work.head_mask) != 0 && (piece.window == kFarAway || last_key > -piece.window));
  }
  const int even_length = kBlockKeys / block->num_pieces;
  block->piece_shift = even && num_keys == kBlockKeys ? static_cast<uint8_t>(31 - __clz(even_length)) : kUneven;
  block->whole_row = block->num_pieces == 1 && num_keys == kBlockKeys ? first.row : -1;
  block->tokens = tokens;
  block->first_delta = least;
  block->window = first.window;
  block->sight = Sight::kByPiece;
  if (contiguous && all_heads && one_window) block->sight = Sight::kContiguous;
  if (num_keys == kBlockKeys && all_heads && in_windows && most <= 0) block->sight = Sight::kAll;
  return any_seen;
}

// The piece that entry part `part` makes, which begins at slot `begin` of its block.
__device__ inline PlanPiece MakePiece(const KvLayerView& cache, const PrefillWork& work, const KvEntry& entry,
                                      int first_token, int begin, int length) {
  const int delta = FromTile(entry.position, work.tile.first_position) + first_token - begin;
  const int end = begin + length, seen_end = work.last_query - delta + 1;  // of slots
  return {
      .row = static_cast<int>((entry.page * cache.num_kv_heads + work.kv_head) * 2 * cache.page_tokens) +
             entry.first_valid + first_token - begin,
      .delta = delta,
      .head_mask = entry.head_mask,
      .begin = static_cast<int16_t>(begin),
      .end = static_cast<int16_t>(end < seen_end     ? end
                                  : seen_end > begin ? seen_end
                                                     : begin),
      .window = entry.ignores_left_window ? kFarAway : work.window,
  };
}

// Writes those of the warp's blocks that are `seen`, in order; lane b holds block b.
__device__ inline void KeepSeenBlocks(bool seen, PlanBlock block, PlanCursor* cursor, PrefillPlan* plan) {
  const unsigned lane = threadIdx.x % kWarpThreads, seen_lanes = __ballot_sync(kWholeWarp, seen);
  const unsigned earlier = seen_lanes & ((1u << lane) - 1);
  const int cap_before = __shfl_sync(kWholeWarp, block.cap, earlier == 0 ? 0 : 31 - __clz(earlier));
  block.turns_query = block.cap != (earlier == 0 ? cursor->cap : cap_before);
  block.is_plain = block.sight == Sight::kAll && !block.turns_query;
  block.is_last = seen_lanes >> lane == 1;
  if (seen) plan->blocks[__popc(earlier)] = block;
  const int last_cap = __shfl_sync(kWholeWarp, block.cap, seen_lanes == 0 ? 0 : 31 - __clz(seen_lanes));
  __syncwarp();
  if (lane != 0) return;
  plan->num_blocks = __popc(seen_lanes);
  if (seen_lanes != 0) cursor->cap = last_cap;
}

// Plans the next blocks that the tile sees, if any of the next 32 pieces are in one. Called by one whole warp while
// cursor->next_piece < work.num_pieces.
template <int kBlockKeys>
__device__ inline void PlanBlocks(const AttentionCommon& common, const PrefillWork& work, PlanCursor* cursor,
                                  PrefillPlan* plan) {
  const int lane = static_cast<int>(threadIdx.x % kWarpThreads), index = cursor->next_piece + lane;
  const bool valid = index < work.num_pieces, list_ends = cursor->next_piece + kWarpThreads >= work.num_pieces;
  KvEntry entry;
  int length = 0, part = 0, group = kWarpThreads, begin = 0;
  if (valid) {
    entry = *FindPiece<kBlockKeys>(work, common.cache.page_tokens, index, &part);
    length = entry.num_valid - part * kBlockKeys;
    length = length < 0 ? 0 : length > kBlockKeys ? kBlockKeys : length;
  }
  const int num_groups = GroupPieces<kBlockKeys>(length, entry.query_cap, valid, list_ends, &group, &begin);
  const bool used = valid && group < num_groups;
  const int num_used = __popc(__ballot_sync(kWholeWarp, used));
  const int group_before = __shfl_up_sync(kWholeWarp, group, 1);
  if (used && (lane == 0 || group_before != group)) plan->first_pieces[group] = static_cast<uint8_t>(lane);
  if (valid) plan->pieces[lane] = MakePiece(common.cache, work, entry, part * kBlockKeys, begin, length);
  __syncwarp();
  // From here on lane b is group b.
  PlanBlock block{};
  bool seen = false;
  const int first = lane < num_groups ? plan->first_pieces[lane] : 0;
  const int end = lane + 1 < num_groups ? plan->first_pieces[lane + 1] : num_used;
  const int cap = __shfl_sync(kWholeWarp, FromTile(entry.query_cap, work.tile.first_position), first);
  if (lane < num_groups) {
    block.first_piece = static_cast<uint8_t>(first);
    block.num_pieces = static_cast<uint8_t>(end - first);
    seen = SeeBlock<kBlockKeys>(work, plan->pieces, &block);
    block.cap = cap >= work.last_query ? kFarAway : cap;
  }
  KeepSeenBlocks(seen, block, cursor, plan);
  if (lane == 0) cursor->next_piece += num_used;
}

}  // namespace farspan::kernels::cuda
