// SPDX-License-Identifier: Apache-2.0
// The fetching side of the decode kernel: every block counts the batch's items, then its last warp takes one after the
// other, walks its entries and starts the copies of its units.
#pragma once

#include "engine/kernels/cuda/decode_instructions.cuh"
#include "engine/kernels/cuda/decode_layout.cuh"
#include "engine/kernels/cuda/device.cuh"

namespace farspan::kernels::cuda::decode {

// Sum of the lower lanes' values; `*total` is that of all.
__device__ inline int WarpPrefix(int value, int* total) {
  const int lane = threadIdx.x % kWarpThreads;
  int inclusive = value;
#pragma unroll
  for (int offset = 1; offset < kWarpThreads; offset *= 2) {
    const int lower = __shfl_up_sync(kWholeWarp, inclusive, offset);
    if (lane >= offset) inclusive += lower;
  }
  *total = __shfl_sync(kWholeWarp, inclusive, kWarpThreads - 1);
  return inclusive - value;
}

__device__ inline int ListsPerThread(const Plan& plan) { return (plan.num_lists + kThreads - 1) / kThreads; }

// Fills first_items; returns the number of items. All threads call it.
template <typename SharedMemory>
__device__ int CountItems(const DecodeAttentionArgs& args, const Plan& plan, SharedMemory& shared) {
  const int lists_per_thread = ListsPerThread(plan), warp = threadIdx.x / kWarpThreads;
  int mine = 0;
#pragma unroll 1
  for (int i = 0; i < lists_per_thread; ++i) {
    const int list = static_cast<int>(threadIdx.x) * lists_per_thread + i;
    if (list >= plan.num_lists) break;
    const KvList entries = args.lists[list];
    mine += plan.NumSplits(entries.num_entries);
    shared.lists[threadIdx.x] =
        make_int2(static_cast<int>(entries.entries_begin), static_cast<int>(entries.num_entries));
  }
  int warp_total;
  const int before = WarpPrefix(mine, &warp_total);
  if (threadIdx.x % kWarpThreads == 0) shared.warp_totals[warp] = warp_total;
  __syncthreads();
  int total = 0, first = before;
#pragma unroll
  for (int i = 0; i < kThreads / kWarpThreads; ++i) {
    if (i == warp) first += total;
    total += shared.warp_totals[i];
  }
  shared.first_items[threadIdx.x] = first;
  __syncthreads();
  return total;
}

struct FoundList {
  int list;
  int first_item;
  KvList entries;
};

// The list that `item` is a split of.
template <typename SharedMemory>
__device__ FoundList FindList(const DecodeAttentionArgs& args, const Plan& plan, const SharedMemory& shared, int item) {
  const int lane = threadIdx.x % kWarpThreads;
  int thread = -1;
#pragma unroll
  for (int i = 0; i < kThreads; i += kWarpThreads) {
    thread += __popc(__ballot_sync(kWholeWarp, shared.first_items[i + lane] <= item));
  }
  // Threads without lists start where the last one ends, past every item.
  const int lists_per_thread = ListsPerThread(plan);
  int first_item = shared.first_items[thread];
  if (lists_per_thread == 1) {
    const int2 entries = shared.lists[thread];
    return {.list = thread, .first_item = first_item, .entries = {entries.x, entries.y}};
  }
  for (int first = thread * lists_per_thread;; first += kWarpThreads) {
    const bool present = lane < lists_per_thread && first + lane < plan.num_lists;
    const KvList entries = present ? args.lists[first + lane] : KvList{};
    int total;
    const int my_first = first_item + WarpPrefix(present ? plan.NumSplits(entries.num_entries) : 0, &total);
    if (item < first_item + total) {
      const int found = __popc(__ballot_sync(kWholeWarp, present && my_first <= item)) - 1;
      return {.list = first + found,
              .first_item = __shfl_sync(kWholeWarp, my_first, found),
              .entries = {.entries_begin = __shfl_sync(kWholeWarp, entries.entries_begin, found),
                          .num_entries = __shfl_sync(kWholeWarp, entries.num_entries, found)}};
    }
    first_item += total;
  }
}

// An entry as a row sees it: the visible tokens of the page.
struct SeenEntry {
  int32_t page;
  int32_t begin;
  int32_t end;
  uint32_t head_mask;
  int64_t turn;

  __device__ int num_units() const {
    return begin < end ? (end + kUnitTokens - 1) / kUnitTokens - begin / kUnitTokens : 0;
  }
};

__device__ inline SeenEntry See(const KvEntry& entry, const DecodeRow& row, uint32_t group_heads) {
  int64_t begin = 0, end = row.position - entry.position + 1;
  const int64_t first_visible = row.position - row.left_window + 1;
  if (!entry.ignores_left_window && first_visible > entry.position) begin = first_visible - entry.position;
  if (end > entry.num_valid) end = entry.num_valid;
  const bool none = begin >= end || (entry.head_mask & group_heads) == 0;
  return {.page = entry.page,
          .begin = none ? 0 : static_cast<int32_t>(entry.first_valid + begin),
          .end = none ? 0 : static_cast<int32_t>(entry.first_valid + end),
          .head_mask = entry.head_mask,
          .turn = row.position > entry.query_cap ? entry.query_cap - row.position : 0};
}

inline constexpr int kAskUnits = 2 * kConsumerWarps;  // before the end of an item, when its successor is taken

template <typename SharedMemory>
class Producer {
 public:
  __device__ Producer(const DecodeAttentionArgs& args, const Plan& plan, const CUtensorMap* map, SharedMemory* shared)
      : args_(args), plan_(plan), map_(map), shared_(*shared), lane_(threadIdx.x % kWarpThreads) {}

  __device__ void Run(int num_items) {
    takes_items_ = num_items > static_cast<int>(gridDim.x);
#pragma unroll 1
    for (int item = blockIdx.x; item < num_items;) {
      const FoundItem found = Find(item);
      if (args_.lists_are_settled && num_published_ == 0) {
        Prefetch(found);
        WaitForPrevious();
      }
      Publish({.list = found.list,
               .first_head = static_cast<int32_t>(found.row.row) * plan_.num_heads + found.kv_head * plan_.group,
               .split = static_cast<int32_t>(found.split),
               .num_splits = static_cast<int32_t>(found.num_splits),
               .first_slot = found.first_slot});
      kv_head_ = found.kv_head;
      has_asked_ = false;
      FetchEntries(found);
      if (!takes_items_) break;
      AskForNext();
      const uint32_t taken = __shfl_sync(kWholeWarp, taken_, 0);
      // Each item is taken once, and each block takes once too often: this was the last take of the launch.
      if (taken == static_cast<uint32_t>(num_items) - 1 && lane_ == 0) *plan_.next_item = 0;
      item = static_cast<int>(gridDim.x + taken);
    }
    Publish({.list = -1});
  }

 private:
  // An item with what the fetching of it starts from.
  struct FoundItem {
    int list;
    int kv_head;
    uint32_t split;
    uint32_t num_splits;
    int first_slot;
    DecodeRow row;
    const KvEntry* begin;
    const KvEntry* end;
    KvEntry entry;  // begin[lane_], where there is one
  };

  __device__ FoundItem Find(int item) const {
    FoundItem found;
    const FoundList list = FindList(args_, plan_, shared_, item);
    found.list = list.list;
    found.split = item - list.first_item;
    found.num_splits = plan_.NumSplits(list.entries.num_entries);
    found.first_slot = list.first_item;
    const int row_index = list.list / plan_.num_kv_heads;
    found.kv_head = list.list - row_index * plan_.num_kv_heads;
    found.row = args_.rows[row_index];
    const KvEntry* entries = args_.common.entries + list.entries.entries_begin;
    const auto num_entries = static_cast<uint32_t>(list.entries.num_entries);
    found.begin = entries + num_entries * found.split / found.num_splits;
    found.end = entries + num_entries * (found.split + 1) / found.num_splits;
    if (found.begin + lane_ < found.end) found.entry = found.begin[lane_];
    return found;
  }

  // Takes the next item of the launch; the answer comes later. Late in an item, so that no block sits on one that
  // another could start.
  __device__ void AskForNext() {
    if (has_asked_ || !takes_items_) return;
    has_asked_ = true;
    if (lane_ == 0) taken_ = atomicAdd(plan_.next_item, 1u);
  }

  __device__ void Publish(const Item& item) {
    const int place = num_published_ % kItemsAhead;
    WaitBarrier(&shared_.item_empty[place], num_published_ / kItemsAhead % 2 ^ 1);
    if (lane_ == 0) {
      shared_.items[place] = item;
      Arrive(&shared_.item_full[place]);
    }
    ++num_published_;
  }

  // Brings nearer what the item's first copies read, while kernels ahead, which may write the newest of it, go on.
  __device__ void Prefetch(const FoundItem& item) const {
    const SeenEntry entry = item.begin + lane_ < item.end ? See(item.entry, item.row, plan_.group_heads) : SeenEntry{};
    int num_units;
    const int room = SharedMemory::kStages * kConsumerWarps - WarpPrefix(entry.num_units(), &num_units);
    const int end = entry.num_units() < room ? entry.num_units() : room;
#pragma unroll 1
    for (int unit = 0; unit < end; ++unit) {
      ForTiles(item.kv_head, entry.page, (entry.begin / kUnitTokens + unit) * kUnitTokens,
               [this](const TileOrigin& origin, int) { PrefetchTile(map_, origin); });
    }
  }

  __device__ void FetchEntries(const FoundItem& item) {
    num_filled_ = 0;
    bool is_closed = false;
    KvEntry next = item.entry;
#pragma unroll 1
    for (const KvEntry* first = item.begin; first < item.end; first += kWarpThreads) {
      const bool is_last = first + kWarpThreads >= item.end;
      const SeenEntry entry = first + lane_ < item.end ? See(next, item.row, plan_.group_heads) : SeenEntry{};
      const KvEntry* after = first + kWarpThreads + lane_;
      if (after < item.end) next = *after;
      int num_units;
      const int first_unit = WarpPrefix(entry.num_units(), &num_units);
#pragma unroll 1
      for (int unit = 0; unit < num_units;) {
        if (is_last && num_units - unit <= kAskUnits) AskForNext();
        unit += FillStage(entry, first_unit, unit, num_units);
        if (num_filled_ < kConsumerWarps) break;
        is_closed = is_last && unit == num_units;
        CloseStage(is_closed);
      }
    }
    if (is_closed) return;
    if (num_filled_ == 0) WaitForStage();
    if (lane_ >= num_filled_ && lane_ < kConsumerWarps) shared_.units[stage_][lane_] = Unit{};
    CloseStage(true);
  }

  __device__ void WaitForStage() { WaitBarrier(&shared_.stage_empty[stage_], phase_ ^ 1); }

  // Starts the copies of units [unit, ...) of the warp's entries into what is left of the stage; returns how many.
  __device__ int FillStage(const SeenEntry& entry, int first_unit, int unit, int num_units) {
    if (num_filled_ == 0) WaitForStage();
    const int room = kConsumerWarps - num_filled_;
    const int count = num_units - unit < room ? num_units - unit : room;
    const int mine = lane_ - num_filled_;  // of the units taken now
    int source = 0;
#pragma unroll
    for (int i = 0; i < kConsumerWarps; ++i) {
      const unsigned starts = __ballot_sync(kWholeWarp, entry.num_units() > 0 && first_unit <= unit + i);
      if (mine == i) source = kWarpThreads - 1 - __clz(static_cast<int>(starts));
    }
    const int32_t page = __shfl_sync(kWholeWarp, entry.page, source);
    const int32_t begin = __shfl_sync(kWholeWarp, entry.begin, source);
    const int32_t end = __shfl_sync(kWholeWarp, entry.end, source);
    const uint32_t head_mask = __shfl_sync(kWholeWarp, entry.head_mask, source);
    const int64_t turn = __shfl_sync(kWholeWarp, entry.turn, source);
    const int first_of_source = __shfl_sync(kWholeWarp, first_unit, source);
    if (mine >= 0 && mine < count) {
      const int token = (begin / kUnitTokens + unit + mine - first_of_source) * kUnitTokens;
      const int low = begin > token ? begin - token : 0;
      const int high = end < token + kUnitTokens ? end - token : kUnitTokens;
      shared_.units[stage_][lane_] = {
          .span = static_cast<uint32_t>(low | high << 8), .head_mask = head_mask, .turn = turn};
      CopyUnit(page, token);
    }
    num_filled_ += count;
    return count;
  }

  __device__ void CopyUnit(int32_t page, int32_t token) {
    uint8_t* to = shared_.stages[stage_][lane_];
    uint64_t* full = &shared_.stage_full[stage_];
    ExpectBytes(full, SharedMemory::kUnitBytes);
    ForTiles(kv_head_, page, token, [this, to, full](const TileOrigin& origin, int column) {
      CopyTile(to + column * kTileBytes, map_, origin, full);
    });
  }

  // Calls body with the origin of each copy of a unit, and with the column of the stage where it lands.
  template <typename Body>
  __device__ void ForTiles(int kv_head, int32_t page, int32_t token, const Body& body) const {
    const auto plane = static_cast<int32_t>(page * plan_.num_kv_heads + kv_head);
    if (args_.common.cache.head_dim == SharedMemory::kColumns * SharedMemory::kColumnElements) {
      body(TileOrigin{{0, token, 0, 0, plane}}, 0);
      return;
    }
#pragma unroll 1
    for (int column = 0; column < 2 * SharedMemory::kColumns; ++column) {
      const int32_t channel = column % SharedMemory::kColumns * SharedMemory::kColumnElements;
      body(TileOrigin{{channel, token, 0, column / SharedMemory::kColumns, plane}}, column);
    }
  }

  __device__ void CloseStage(bool is_last) {
    if (lane_ == 0) shared_.stage_is_last[stage_] = is_last ? 1 : 0;
    __syncwarp();
    if (lane_ == 0) Arrive(&shared_.stage_full[stage_]);
    num_filled_ = 0;
    if (++stage_ == SharedMemory::kStages) {
      stage_ = 0;
      phase_ ^= 1;
    }
  }

  const DecodeAttentionArgs& args_;
  const Plan& plan_;
  const CUtensorMap* const map_;
  SharedMemory& shared_;
  const int lane_;
  bool takes_items_ = false;
  uint32_t taken_ = 0;
  bool has_asked_ = false;
  int kv_head_ = 0;
  int num_published_ = 0;
  int num_filled_ = 0;  // units of the open stage
  int stage_ = 0;
  uint32_t phase_ = 0;
};

}  // namespace farspan::kernels::cuda::decode
