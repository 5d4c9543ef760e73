// SPDX-License-Identifier: Apache-2.0
// The producing warps of Hopper's prefill attention. One takes items (tile, query head), walks their lists and fills
// shared memory with queries and with tiles of 128 keys, what each query sees of a tile noted beside it; the other
// follows with the same tiles of values. Tiles of 8-bit elements are raw: PrefillWidener makes operands of them.
#pragma once

#include "engine/kernels/args.h"
#include "engine/kernels/cuda/device.cuh"
#include "engine/kernels/cuda/hopper.cuh"
#include "engine/kernels/cuda/hopper_prefill_launch.h"

namespace farspan::kernels::cuda::hopper {

inline constexpr int kTileQueries = static_cast<int>(kPrefillTileQueries);
inline constexpr int kTileKeys = static_cast<int>(kMaskBlockTokens);
inline constexpr uint32_t kPanelBytes = kTileKeys * kPanelRowBytes;  // of 128 queries, keys or values
inline constexpr int kMostTilePages = kTileKeys / 16;
inline constexpr uint32_t kPanelAlignment = 1024;

struct PrefillParams {
  PrefillAttentionArgs args;
  PrefillSchedule* schedule;
};

// The queries that see a key: [low half, low half + high half) of the tile's.
__device__ inline uint32_t SeenBy(int64_t position, int64_t first_query, int64_t window) {
  const int64_t behind = position - first_query;
  const int64_t begin = behind < 0 ? 0 : behind > kTileQueries ? kTileQueries : behind;
  int64_t end = kTileQueries;
  if (window < kTileQueries - behind) end = behind + window;
  return end <= begin ? 0 : static_cast<uint32_t>(begin) | static_cast<uint32_t>(end - begin) << 16;
}

enum TileFlags : uint32_t {
  kEnd = 1,     // no tile: the item's last one came before
  kMasked = 2,  // `seen_by` counts; else every query sees every key
  kTurned = 4,  // queries beyond `query_cap` are turned to it
};

struct TileNote {
  uint32_t flags;
  int64_t query_cap;
  uint32_t seen_by[kTileKeys];
};

struct ItemNote {
  int64_t row;  // of the first query
  int64_t first_position;
  int32_t num_queries;  // 0: there are no more items
  int32_t head;
  uint32_t index;
  bool by_maxima;   // weights overflowed the first time
  bool overflowed;  // written by consumers: the item must be repeated
};

// How elements of the cache become operands of products. 8-bit elements are widened to f16, which holds each.
template <KvElement kElement>
struct ElementTraits {
  static constexpr Operand kOperand = kElement == KvElement::kBf16 ? Operand::kBf16 : Operand::kF16;
  static constexpr bool kIsRaw = kElement == KvElement::kF8E4M3;
  static constexpr uint32_t kBytes = kIsRaw ? 1 : 2;
  // 64 columns of a raw tile's rows lie without a swizzle in the upper half of the panel that they become.
  static constexpr uint32_t kRowBytes = kPanelColumns * kBytes;
  static constexpr uint32_t kOffset = kIsRaw ? kPanelBytes / 2 : 0;
};

// A block's shared memory. Each operand is kHeadDim / 64 panels of 128 rows.
template <int kHeadDim, KvElement kElement>
struct PrefillShared {
  static constexpr int kQueryStages = 2;
  static constexpr int kKeyStages = kHeadDim == 128 ? 2 : 4;
  static constexpr int kValueStages = kHeadDim == 128 ? 3 : 4;
  static constexpr uint32_t kOperandBytes = kHeadDim / kPanelColumns * kPanelBytes;
  uint8_t q[kQueryStages][kOperandBytes];
  uint8_t k[kKeyStages][kOperandBytes];
  uint8_t v[kValueStages][kOperandBytes];
  TileNote notes[kKeyStages];  // filled and emptied with k
  ItemNote items[kQueryStages];
  int32_t source_rows[2][kTileKeys];  // each producer's own
  int64_t page_positions[kMostTilePages];
  int64_t page_windows[kMostTilePages];
  uint64_t q_full[kQueryStages], q_empty[kQueryStages];
  uint64_t k_full[kKeyStages], k_empty[kKeyStages];
  uint64_t v_full[kValueStages], v_empty[kValueStages];
  // Of raw tiles: filled by a producer, and by the widener passed on as full.
  uint64_t k_raw[kKeyStages], v_raw[kValueStages];
  bool ends[2];  // keys, values: the stage after the last tile is raw, and there are no more
};

// A place in a ring of stages, and the parity of the phase in which it is filled.
template <int kStages>
struct RingPlace {
  int stage = 0;
  uint32_t parity = 0;
  __device__ void Advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// Runs in one whole warp: with kValues in the one that follows.
template <int kHeadDim, KvElement kElement, bool kValues>
class PrefillProducer {
 public:
  using Shared = PrefillShared<kHeadDim, kElement>;

  __device__ PrefillProducer(const PrefillParams& params, const CUtensorMap* q_map, const CUtensorMap* kv_map,
                             Shared* shared)
      : args_(params.args),
        schedule_(*params.schedule),
        q_map_(q_map),
        kv_map_(kv_map),
        shared_(*shared),
        lane_(threadIdx.x % kWarpThreads),
        page_tokens_(static_cast<int>(params.args.common.cache.page_tokens)),
        tile_pages_(kTileKeys / static_cast<int>(params.args.common.cache.page_tokens)) {}

  __device__ void Run() {
    if constexpr (kValues) {
      Follow();
    } else {
      Lead();
    }
  }

 private:
  using Traits = ElementTraits<kElement>;
  static constexpr int kStages = kValues ? Shared::kValueStages : Shared::kKeyStages;

  __device__ void Lead() {
    unsigned fresh = blockIdx.x;
    for (;;) {
      bool by_maxima = false;
      const unsigned item = NextItem(fresh, &by_maxima);
      if (item >= NumItems()) break;
      TakeItem(item);
      BeginItem(item, by_maxima);
      WalkList();
      // Not before this one is all but done, so that a block with a long item takes no other.
      if (!by_maxima) {
        if (lane_ == 0) fresh = gridDim.x + atomicAdd(&schedule_.items_taken, 1u);
        fresh = __shfl_sync(kWholeWarp, fresh, 0);
      }
      EndItem();
    }
    LetNextStart();
    if (lane_ == 0) {
      shared_.items[q_place_.stage].num_queries = 0;
      Arrive(&shared_.q_full[q_place_.stage]);
    }
    EndTiles();
  }

  __device__ unsigned NumItems() const { return static_cast<unsigned>(args_.num_tiles * args_.common.num_heads); }

  // Waits for the next query stage. An item that overflowed comes before a fresh one; where there is none of either,
  // all that were begun are done.
  __device__ unsigned NextItem(unsigned fresh, bool* by_maxima) {
    RingPlace<Shared::kQueryStages> place = q_place_;
    for (int i = 0; i < Shared::kQueryStages; ++i) {
      Wait(&shared_.q_empty[place.stage], place.parity ^ 1);
      ItemNote& note = shared_.items[place.stage];
      *by_maxima = note.overflowed;
      if (*by_maxima) {
        __syncwarp();
        if (lane_ == 0) note.overflowed = false;
        return note.index;
      }
      if (fresh < NumItems()) return fresh;
      place.Advance();
    }
    return fresh;
  }

  __device__ void Follow() {
    for (;;) {
      Wait(&shared_.q_full[q_place_.stage], q_place_.parity);
      const ItemNote& note = shared_.items[q_place_.stage];
      if (note.num_queries == 0) return EndTiles();
      TakeItem(note.index);
      __syncwarp();
      if (lane_ == 0) Arrive(&shared_.q_empty[q_place_.stage]);
      q_place_.Advance();
      WalkList();
    }
  }

  // A section of the heads after the other; in it tiles with long lists first, or of very many tiles later ones, since
  // those of a sequence ascend and so do their lists.
  __device__ void TakeItem(unsigned item) {
    const AttentionCommon& common = args_.common;
    const unsigned num_tiles = static_cast<unsigned>(args_.num_tiles), num_heads = common.num_heads;
    const unsigned num_kv_heads = common.cache.num_kv_heads, group = num_heads / num_kv_heads;
    const unsigned section_heads = (num_kv_heads + schedule_.num_sections - 1) / schedule_.num_sections * group;
    const unsigned section = item / (num_tiles * section_heads), in_section = item % (num_tiles * section_heads);
    const unsigned first_head = section * section_heads;
    const unsigned heads = num_heads - first_head < section_heads ? num_heads - first_head : section_heads;
    const unsigned nth = in_section / heads;
    const unsigned tile_index = num_tiles <= kMostOrderedTiles ? schedule_.longest_first[nth] : num_tiles - 1 - nth;
    head_ = static_cast<int>(first_head + in_section % heads);
    kv_head_ = head_ / static_cast<int>(group);
    head_in_group_ = head_ % static_cast<int>(group);
    list_index_ = static_cast<int64_t>(tile_index) * num_heads + head_;
    tile_ = args_.tiles[tile_index];
    last_position_ = tile_.first_position + tile_.num_queries - 1;
  }

  __device__ void BeginItem(unsigned item, bool by_maxima) {
    const int stage = q_place_.stage;
    uint64_t* full = &shared_.q_full[stage];
    const bool whole = tile_.num_queries == kTileQueries;
    if (!whole) CopyQueries(SharedAddress(shared_.q[stage]));
    __syncwarp();
    if (lane_ == 0) {
      shared_.items[stage] = {.row = tile_.row,
                              .first_position = tile_.first_position,
                              .num_queries = static_cast<int32_t>(tile_.num_queries),
                              .head = head_,
                              .index = item,
                              .by_maxima = by_maxima,
                              .overflowed = false};
      if (whole) {
        ArriveExpecting(full, Shared::kOperandBytes);
        for (uint32_t panel = 0; panel < kHeadDim / kPanelColumns; ++panel) {
          CopyBox(q_map_, head_ * kHeadDim + static_cast<int>(panel * kPanelColumns), static_cast<int>(tile_.row),
                  SharedAddress(shared_.q[stage]) + panel * kPanelBytes, full);
        }
      } else {
        Arrive(full);
      }
    }
    q_place_.Advance();
  }

  // A tile of fewer queries: rows beyond them are zeros, since nothing may be mapped there.
  __device__ void CopyQueries(uint32_t to) {
    constexpr int kPieces = kHeadDim / 8;
    const auto* q = static_cast<const uint16_t*>(args_.common.q);
    for (int i = lane_; i < kTileQueries * kPieces; i += kWarpThreads) {
      const int row = i / kPieces, piece = i % kPieces;
      const bool valid = row < tile_.num_queries;
      const int64_t source = (tile_.row + (valid ? row : 0)) * args_.common.num_heads + head_;
      CopyOrZero16(to + piece / 8 * kPanelBytes + PanelOffset(row, piece % 8), q + source * kHeadDim + piece * 8,
                   valid);
    }
    WaitForCopies();
    FenceForAsync();
  }

  // Place `index` of what the item reads: an entry of its list, or of the kept blocks' entries one after the other. No
  // valid tokens where there is none.
  __device__ KvEntry LoadEntry(int64_t index) const {
    KvEntry none;
    if (index >= num_places_) return none;
    if (kept_blocks_ != nullptr) index = int64_t{kept_blocks_[index / tile_pages_]} * tile_pages_ + index % tile_pages_;
    return index < num_entries_ ? entries_[index] : none;
  }

  __device__ void WalkList() {
    const KvList list = args_.lists[list_index_];
    const BlockRange range = args_.kept_ranges == nullptr ? BlockRange() : args_.kept_ranges[list_index_];
    entries_ = args_.common.entries + list.entries_begin;
    num_entries_ = list.num_entries;
    kept_blocks_ = range.num_blocks == kAllBlocks ? nullptr : args_.kept_blocks + range.begin;
    num_places_ = range.num_blocks == kAllBlocks ? num_entries_ : range.num_blocks * tile_pages_;
    KvEntry ahead = LoadEntry(lane_);
    for (int64_t base = 0; base < num_places_;) {
      const KvEntry entry = ahead;
      ahead = LoadEntry(base + kWarpThreads + lane_);
      const bool beyond = __any_sync(kWholeWarp, entry.num_valid > 0 && entry.position > last_position_);
      const int taken = FillTiles(entry, beyond || base + kWarpThreads >= num_places_);
      if (beyond) break;
      base += taken;
      if (taken < kWarpThreads) ahead = LoadEntry(base + lane_);
    }
  }

  // Makes tiles of the warp's entries, an entry a lane. Returns how many lanes are done with: some of the last ones are
  // left to be joined by their successors unless there are none.
  __device__ int FillTiles(const KvEntry& entry, bool are_last) {
    const bool visible =
        (entry.head_mask >> head_in_group_ & 1u) != 0 && entry.num_valid > 0 && entry.position <= last_position_ &&
        (entry.ignores_left_window || entry.position + entry.num_valid > tile_.first_position - tile_.left_window + 1);
    const bool whole = visible && entry.num_valid == page_tokens_ && entry.query_cap >= last_position_;
    unsigned left = __ballot_sync(kWholeWarp, visible);
    const unsigned all_whole = __ballot_sync(kWholeWarp, whole);
    while (left != 0) {
      const bool complete = __popc(left) >= tile_pages_;
      const int first = __ffs(static_cast<int>(left)) - 1;
      if (!complete && !are_last && first > 0) return first;
      const int rank = __popc(left & ((1u << lane_) - 1));
      const unsigned pages = __ballot_sync(kWholeWarp, (left >> lane_ & 1u) != 0 && rank < tile_pages_);
      if ((pages & ~all_whole) == 0) {
        CopyPages(entry, pages, rank);
        left &= ~pages;
      } else {
        left &= ~GatherTokens(entry, left);
      }
    }
    return kWarpThreads;
  }

  // Row of the cache at which the entry's page has the head's keys or values.
  __device__ int32_t PlaneRow(const KvEntry& entry) const {
    const int64_t plane = (entry.page * args_.common.cache.num_kv_heads + kv_head_) * 2 + (kValues ? 1 : 0);
    return static_cast<int32_t>(plane * page_tokens_);
  }

  __device__ uint32_t Operand() const {
    return SharedAddress(kValues ? shared_.v[place_.stage] : shared_.k[place_.stage]);
  }
  // What a stage that is filled is told to.
  __device__ uint64_t* Full() const {
    if constexpr (Traits::kIsRaw) return kValues ? &shared_.v_raw[place_.stage] : &shared_.k_raw[place_.stage];
    return kValues ? &shared_.v_full[place_.stage] : &shared_.k_full[place_.stage];
  }

  __device__ void AwaitStage() const {
    Wait(kValues ? &shared_.v_empty[place_.stage] : &shared_.k_empty[place_.stage], place_.parity ^ 1);
  }

  // A tile of whole pages, one of each lane of `pages`. Places beyond the last page hold its copies, which no query
  // sees.
  __device__ void CopyPages(const KvEntry& entry, unsigned pages, int rank) {
    const bool mine = (pages >> lane_ & 1u) != 0;
    const int num_pages = __popc(pages);
    AwaitStage();
    if constexpr (!kValues) NotePages(entry, mine, rank, num_pages);
    uint64_t* full = Full();
    if (lane_ == 0) ArriveExpecting(full, Shared::kOperandBytes / 2 * Traits::kBytes);
    __syncwarp();
    const int end = !mine ? 0 : rank + 1 < num_pages ? rank + 1 : tile_pages_;
    for (int place = rank; place < end; ++place) {
      const uint32_t to = Operand() + Traits::kOffset + static_cast<uint32_t>(place * page_tokens_) * Traits::kRowBytes;
      for (uint32_t panel = 0; panel < kHeadDim / kPanelColumns; ++panel) {
        CopyBox(kv_map_, static_cast<int>(panel * kPanelColumns), PlaneRow(entry), to + panel * kPanelBytes, full);
      }
    }
    __syncwarp();
    place_.Advance();
  }

  __device__ void NotePages(const KvEntry& entry, bool mine, int rank, int num_pages) {
    const int64_t window = entry.ignores_left_window ? kNoLeftWindow : tile_.left_window;
    const bool seen_by_all =
        entry.position + page_tokens_ - 1 <= tile_.first_position && entry.position > last_position_ - window;
    const bool masked = num_pages < tile_pages_ || __any_sync(kWholeWarp, mine && !seen_by_all);
    TileNote& note = shared_.notes[place_.stage];
    if (masked) {
      if (mine) {
        shared_.page_positions[rank] = entry.position;
        shared_.page_windows[rank] = window;
      }
      __syncwarp();
      for (int key = lane_; key < kTileKeys; key += kWarpThreads) {
        const int page = key / page_tokens_;
        note.seen_by[key] = page >= num_pages ? 0
                                              : SeenBy(shared_.page_positions[page] + key % page_tokens_,
                                                       tile_.first_position, shared_.page_windows[page]);
      }
    }
    if (lane_ == 0) note.flags = masked ? kMasked : 0;
    __syncwarp();
  }

  // A tile of single tokens: of the first lanes of `left` as many as fit and agree on how queries are turned. Returns
  // these lanes.
  __device__ unsigned GatherTokens(const KvEntry& entry, unsigned left) {
    const bool mine = (left >> lane_ & 1u) != 0;
    const int64_t cap = entry.query_cap < last_position_ ? entry.query_cap : kNoQueryCap;
    const int64_t tile_cap = __shfl_sync(kWholeWarp, cap, __ffs(static_cast<int>(left)) - 1);
    int end = mine ? entry.num_valid : 0;
    for (int offset = 1; offset < kWarpThreads; offset *= 2) {
      const int before = __shfl_up_sync(kWholeWarp, end, offset);
      if (lane_ >= offset) end += before;
    }
    const unsigned refused = __ballot_sync(kWholeWarp, mine && (end > kTileKeys || cap != tile_cap));
    const unsigned taken = refused == 0 ? left : left & ((1u << (__ffs(static_cast<int>(refused)) - 1)) - 1);
    int32_t* source_rows = shared_.source_rows[kValues];
    AwaitStage();
    for (int key = lane_; key < kTileKeys; key += kWarpThreads) {
      source_rows[key] = -1;
      if constexpr (!kValues) shared_.notes[place_.stage].seen_by[key] = 0;
    }
    __syncwarp();
    if ((taken >> lane_ & 1u) != 0) {
      const int first_key = end - entry.num_valid;
      for (int i = 0; i < entry.num_valid; ++i) source_rows[first_key + i] = PlaneRow(entry) + entry.first_valid + i;
      if constexpr (!kValues) NoteTokens(entry, first_key);
    }
    if (!kValues && lane_ == 0) {
      shared_.notes[place_.stage].flags = kMasked | (tile_cap == kNoQueryCap ? 0 : kTurned);
      shared_.notes[place_.stage].query_cap = tile_cap;
    }
    __syncwarp();
    CopyTokens(source_rows);
    place_.Advance();
    return taken;
  }

  __device__ void NoteTokens(const KvEntry& entry, int first_key) {
    const int64_t window = entry.ignores_left_window ? kNoLeftWindow : tile_.left_window;
    uint32_t* seen_by = shared_.notes[place_.stage].seen_by + first_key;
    for (int i = 0; i < entry.num_valid; ++i) seen_by[i] = SeenBy(entry.position + i, tile_.first_position, window);
  }

  // Rows that are none become zeros: a value that no query sees must not be infinite or NaN, for it is multiplied by
  // zero.
  __device__ void CopyTokens(const int32_t* source_rows) {
    constexpr int kSourceBytes = kHeadDim * Traits::kBytes, kPieces = kSourceBytes / 16;
    constexpr int kPanelPieces = Traits::kRowBytes / 16;
    const auto* cache = static_cast<const uint8_t*>(args_.common.cache.data);
    for (int i = lane_; i < kTileKeys * kPieces; i += kWarpThreads) {
      const int key = i / kPieces, panel = i % kPieces / kPanelPieces, piece = i % kPanelPieces;
      const int source = source_rows[key];
      const uint32_t offset = Traits::kIsRaw ? key * Traits::kRowBytes + piece * 16 : PanelOffset(key, piece);
      CopyOrZero16(Operand() + panel * kPanelBytes + Traits::kOffset + offset,
                   cache + int64_t{source < 0 ? 0 : source} * kSourceBytes + i % kPieces * 16, source >= 0);
    }
    WaitForCopies();
    FenceForAsync();
    __syncwarp();
    if (lane_ == 0) Arrive(Full());
  }

  __device__ void EndItem() {
    AwaitStage();
    if (lane_ == 0) {
      shared_.notes[place_.stage].flags = kEnd;
      Arrive(Full());
    }
    place_.Advance();
  }

  __device__ void EndTiles() {
    if constexpr (Traits::kIsRaw) {
      AwaitStage();
      if (lane_ == 0) {
        shared_.ends[kValues] = true;
        Arrive(Full());
      }
    }
  }

  const PrefillAttentionArgs& args_;
  PrefillSchedule& schedule_;
  const CUtensorMap* const q_map_;
  const CUtensorMap* const kv_map_;
  Shared& shared_;
  const int lane_;
  const int page_tokens_;
  const int tile_pages_;
  RingPlace<Shared::kQueryStages> q_place_;
  RingPlace<kStages> place_;

  // Of the current item.
  int head_;
  int kv_head_;
  int head_in_group_;
  int64_t list_index_;
  PrefillTile tile_;
  int64_t last_position_;
  const KvEntry* entries_;
  int64_t num_entries_;
  const int32_t* kept_blocks_;
  int64_t num_places_;
};

}  // namespace farspan::kernels::cuda::hopper
