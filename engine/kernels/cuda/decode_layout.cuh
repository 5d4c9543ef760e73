// SPDX-License-Identifier: Apache-2.0
// How the decode kernel cuts its work and where the pieces lie in shared memory. A unit is 16 tokens of one page, keys
// and values; a stage is a unit for each of four consumer warps; an item is one split of one (row, KV head)'s list.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "engine/kernels/args.h"
#include "engine/kernels/cuda/decode_attention.h"

namespace farspan::kernels::cuda::decode {

inline constexpr int kUnitTokens = 16;
inline constexpr int kConsumerWarps = 4;
inline constexpr int kConsumerThreads = kConsumerWarps * 32;
inline constexpr int kThreads = kConsumerThreads + 32;  // the last warp fetches
inline constexpr int kColumnBytes = 128;                // of a tile in shared memory: as far as a swizzle goes
inline constexpr int kTileBytes = kUnitTokens * kColumnBytes;
inline constexpr int kHeadTile = 8;  // query heads of one product
inline constexpr int kItemsAhead = 2;
inline constexpr int kMaxSplits = 96;  // of one list; a multiple of the warp's threads

// Where a row's list is cut, and the memory of the launch. Cuts follow from the list's length, the model's shape and
// the device alone.
struct Plan {
  int32_t num_lists = 0;
  int32_t num_kv_heads = 0;
  int32_t num_heads = 0;
  int32_t group = 0;
  uint32_t group_heads = 0;  // bit h: the group has a query head h
  int32_t max_splits = 0;
  // Entries of a split, by the length of the list: of those up to short_entries, up to middle_entries and beyond.
  uint32_t short_entries = 0;
  uint32_t middle_entries = 0;
  uint32_t split_entries[3] = {};
  int32_t head_pairs = 0;         // of a head tile that hold real heads
  int32_t row_tiles = 0;          // of 16 channels
  uint32_t* next_item = nullptr;  // 0 between launches
  uint32_t* tickets = nullptr;    // [num_lists], 0 between launches
  // Partial states by item: [slot][head tile][row_tiles][8][head_pairs] and [slot][head tile * 8] {maximum, sum}.
  float4* partial_outs = nullptr;
  float2* partial_states = nullptr;
  SoftmaxStates states;  // instead of the output, where there are any

  // A list has fewer than 2^25 entries, a batch fewer than 2^31: products with a split's index, below kMaxSplits, fit
  // 32 bits. Divisions of 64 bits are calls.
  __host__ __device__ int NumSplits(int64_t num_entries) const {
    const auto entries = static_cast<uint32_t>(num_entries);
    const uint32_t each = entries <= short_entries    ? split_entries[0]
                          : entries <= middle_entries ? split_entries[1]
                                                      : split_entries[2];
    const auto wanted = static_cast<int32_t>((entries + each - 1) / each);
    return wanted < 1 ? 1 : wanted < max_splits ? wanted : max_splits;
  }
  __host__ __device__ int32_t partial_tile_size() const { return row_tiles * 8 * head_pairs; }
};

// What one consumer warp reads of one stage.
struct alignas(16) Unit {
  uint32_t span;       // first visible token | one past the last << 8; equal when there is none
  uint32_t head_mask;  // of the entry
  int64_t turn;        // positions to turn the query by, 0 for none
};

struct Item {
  int32_t list;        // row * num_kv_heads + kv_head; -1: no more
  int32_t first_head;  // of the group, in [rows of the batch][num_heads]
  int32_t split;
  int32_t num_splits;
  int32_t first_slot;  // of the list's partial states
};

// `kDim` is head_dim rounded up to 64, 128 or 256; kHeadTiles * 8 is at least the group.
template <int kDim, int kHeadTiles, typename Element_>
struct Shared {
  using Element = Element_;
  static constexpr int kColumnElements = kColumnBytes / Element::kBytes;
  static constexpr int kColumns = kDim / kColumnElements;
  static constexpr int kUnitBytes = kColumns * 2 * kTileBytes;  // [K|V][column][token][128 bytes], swizzled
  static constexpr int kBlocksPerMultiprocessor = kDim == 256 || kHeadTiles > 1 ? 1 : 2;
  static constexpr int kStages = 192 * 1024 / kBlocksPerMultiprocessor / (kConsumerWarps * kUnitBytes);
  static constexpr int kHeads = kHeadTiles * kHeadTile;
  static constexpr int kRowTiles = kDim / 16;

  alignas(1024) uint8_t stages[kStages][kConsumerWarps][kUnitBytes];
  union {
    // A warp owns a quarter of the channels when states are merged: [owner][sender][row tile][lane].
    float4 exchange[kConsumerWarps][kConsumerWarps - 1][kRowTiles / kConsumerWarps][32];
    struct {  // when splits are
      float4 sums[kConsumerThreads];
      float weights[kMaxSplits][kHeads];
    } merge;
  };
  float2 states[kConsumerWarps][kHeads];  // {maximum, sum}
  Unit units[kStages][kConsumerWarps];
  Item items[kItemsAhead];
  uint64_t stage_full[kStages];
  uint64_t stage_empty[kStages];
  uint64_t item_full[kItemsAhead];
  uint64_t item_empty[kItemsAhead];
  uint32_t stage_is_last[kStages];
  int32_t first_items[kThreads];  // of each thread's run of lists
  int2 lists[kThreads];           // {begin, entries} of the list, where no run has more than one
  int32_t warp_totals[kThreads / 32];
  uint32_t ticket;
  float2 merged_states[kHeads];
};

}  // namespace farspan::kernels::cuda::decode
