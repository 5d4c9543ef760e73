// SPDX-License-Identifier: Apache-2.0
// The computing side of the decode kernel. Keys are the rows of the first product and channels those of the second, so
// that the few query heads of a group fill the narrow side of both; a warp keeps its own softmax state of the units it
// read, four warps' states are merged when an item ends, and an item's with those of its list by whoever ends last.
#pragma once

#include "engine/kernels/cuda/decode_elements.cuh"
#include "engine/kernels/cuda/decode_instructions.cuh"
#include "engine/kernels/cuda/decode_layout.cuh"
#include "engine/kernels/cuda/decode_outputs.cuh"
#include "engine/kernels/cuda/device.cuh"

namespace farspan::kernels::cuda::decode {

// Offset in a 128-byte wide tile of this lane's row of 32 bytes of 16 keys; `block` is of the tile's four.
__device__ inline uint32_t KeyOffset(int block) {
  const int lane = threadIdx.x % kWarpThreads;
  return static_cast<uint32_t>(lane % 16 * 128 + (((lane / 16) ^ (lane % 8)) << 4 ^ block << 5));
}

// The queries of one group, as columns of a product: a lane holds two channels of one head.
template <typename Element>
struct GroupQuery {
  const uint16_t* q;  // [group][head_dim]
  int group;
  int head_dim;

  __device__ static int Channel(int step, int half) {
    return step * 16 + Fragments<Element>::QueryChannel(half, static_cast<int>(threadIdx.x % 4));
  }
  __device__ uint32_t Word(int tile, int step, int half) const {
    const int head = tile * kHeadTile + static_cast<int>(threadIdx.x % kWarpThreads) / 4;
    const int channel = Channel(step, half);
    if (head >= group || channel >= head_dim) return 0;
    return *reinterpret_cast<const uint32_t*>(q + static_cast<int64_t>(head) * head_dim + channel);
  }
};

// {cos, sin} of turning a channel pair by `turn` positions.
__device__ inline float2 TurnOf(const AttentionCommon& common, int pair, int64_t turn) {
  if (2 * pair >= common.rope_dim) return make_float2(1, 0);
  constexpr double kInverseTwoPi = 0.15915494309189535;
  const double turns = static_cast<double>(turn) * common.inverse_frequencies[pair] * kInverseTwoPi;
  float2 cos_sin;
  sincospif(static_cast<float>(2 * (turns - rint(turns))), &cos_sin.y, &cos_sin.x);
  return cos_sin;
}

template <int kHeadTiles>
struct UnitScores {
  float of[kHeadTiles][4];  // [token lane / 4 (+ 8)][heads lane % 4 * 2 and the next]
};

// Scores of a unit by the turned query. Rare, so the query is read again; what rounding takes from the turned words is
// kept in a second product.
template <int kHeadTiles, typename Element>
__device__ UnitScores<kHeadTiles> ScoreTurned(const AttentionCommon& common, GroupQuery<Element> query,
                                              uint32_t address, int64_t turn) {
  UnitScores<kHeadTiles> scores{};
#pragma unroll 1
  for (int step = 0; step < (query.head_dim + 15) / 16; ++step) {
    constexpr int kLoadSteps = Fragments<Element>::kSteps;
    uint32_t loaded[4], keys[4];
    LoadMatrices(address + step / (4 * kLoadSteps) * kTileBytes + KeyOffset(step / kLoadSteps % 4), loaded);
    Fragments<Element>::Keys(loaded, step % kLoadSteps, keys);
    float2 cos_sin[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      cos_sin[half] = TurnOf(common, query.Channel(step, half) / 2, turn);
    }
#pragma unroll
    for (int tile = 0; tile < kHeadTiles; ++tile) {
      uint32_t high[2], low[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float2 q = Bf16Element::Unpack(query.Word(tile, step, half)), by = cos_sin[half];
        const float2 turned = make_float2(q.x * by.x - q.y * by.y, q.x * by.y + q.y * by.x);
        high[half] = Element::Pack(turned.x, turned.y);
        const float2 kept = Element::Unpack(high[half]);
        low[half] = Element::Pack(turned.x - kept.x, turned.y - kept.y);
      }
      Element::MultiplyAdd(scores.of[tile], keys, high);
      Element::MultiplyAdd(scores.of[tile], keys, low);
    }
  }
  return scores;
}

template <int kDim, int kHeadTiles, typename Element>
class Consumer {
 public:
  using SharedMemory = Shared<kDim, kHeadTiles, Element>;
  using Tiles = Fragments<Element>;
  static constexpr int kSteps = kDim / 16;
  static constexpr int kBlocks = 4;                        // of 32 bytes, of a column
  static constexpr int kChains = kHeadTiles == 1 ? 4 : 2;  // of products that wait for each other

  __device__ Consumer(const DecodeAttentionArgs& args, const Plan& plan, SharedMemory* shared)
      : args_(args),
        plan_(plan),
        shared_(*shared),
        scale_(args.common.scale * kLog2E),
        warp_(threadIdx.x / kWarpThreads),
        lane_(threadIdx.x % kWarpThreads),
        pair_(lane_ % 4),
        channel_(lane_ / 4) {}

  __device__ void Run() {
    for (int num_items = 0;; ++num_items) {
      const int place = num_items % kItemsAhead;
      WaitBarrier(&shared_.item_full[place], num_items / kItemsAhead % 2);
      const Item item = shared_.items[place];
      __syncwarp();
      if (lane_ == 0) Arrive(&shared_.item_empty[place]);
      if (item.list < 0) return;
      LoadQuery(item);
      FoldItem();
      EndItem(item);
    }
  }

 private:
  __device__ void LoadQuery(const Item& item) {
    query_ = {.q = static_cast<const uint16_t*>(args_.common.q) + item.first_head * args_.common.cache.head_dim,
              .group = plan_.group,
              .head_dim = static_cast<int>(args_.common.cache.head_dim)};
#pragma unroll
    for (int tile = 0; tile < kHeadTiles; ++tile) {
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          q_[tile][step][half] = Element::FromBf16(query_.Word(tile, step, half));
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) out_[tile][step][i] = 0;
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        maximum_[tile][i] = kNegativeInfinity;
        sum_[tile][i] = 0;
      }
    }
  }

  __device__ void FoldItem() {
    for (bool is_last = false; !is_last;) {
      WaitBarrier(&shared_.stage_full[stage_], phase_);
      is_last = shared_.stage_is_last[stage_] != 0;
      const Unit unit = shared_.units[stage_][warp_];
      if (unit.span != 0) FoldUnit(unit, SharedAddress(shared_.stages[stage_][warp_]));
      __syncwarp();
      if (lane_ == 0) Arrive(&shared_.stage_empty[stage_]);
      if (++stage_ == SharedMemory::kStages) {
        stage_ = 0;
        phase_ ^= 1;
      }
    }
  }

  __device__ void FoldUnit(const Unit& unit, uint32_t address) {
    UnitScores<kHeadTiles> unit_scores;
    float(&scores)[kHeadTiles][4] = unit_scores.of;
    if (unit.turn == 0) {
      Score(address, scores);
    } else {
      unit_scores = ScoreTurned<kHeadTiles, Element>(args_.common, query_, address, unit.turn);
    }
    uint32_t values[kBlocks][4];  // on their way while the softmax is worked out
    LoadValues(address, 0, values);
    const bool is_plain = unit.span == (kUnitTokens << 8) && (unit.head_mask & plan_.group_heads) == plan_.group_heads;
    if (!is_plain) MaskScores(unit, scores);
    uint32_t weights[kHeadTiles][2];
    UpdateState(scores, weights);
    AddValues(address, is_plain ? UINT32_MAX : TokenMask(unit, 0), is_plain ? UINT32_MAX : TokenMask(unit, 8), weights,
              values);
  }

  // Offset in a 128-byte wide tile of this lane's row of 32 bytes of 16 values, whose tokens are columns of the
  // product; `block` is of the tile's four.
  __device__ static uint32_t ValueOffset(int block) {
    const int lane = threadIdx.x % kWarpThreads, token = lane % 8 + lane / 16 * 8;
    return static_cast<uint32_t>(token * 128 + (((lane / 8 % 2) ^ (lane % 8)) << 4 ^ block << 5));
  }

  // scores[token channel_ (+ 8)][heads 2 * pair_ and the next]
  __device__ void Score(uint32_t address, float (&scores)[kHeadTiles][4]) const {
    float chains[kChains][kHeadTiles][4] = {};
#pragma unroll
    for (int column = 0; column < SharedMemory::kColumns; ++column) {
      const uint32_t tile_address = address + column * kTileBytes;
      uint32_t keys[kBlocks][4];
      LoadMatrices({tile_address + KeyOffset(0), tile_address + KeyOffset(1), tile_address + KeyOffset(2),
                    tile_address + KeyOffset(3)},
                   keys);
#pragma unroll
      for (int i = 0; i < kBlocks * Tiles::kSteps; ++i) {
        uint32_t rows[4];
        Tiles::Keys(keys[i / Tiles::kSteps], i % Tiles::kSteps, rows);
#pragma unroll
        for (int tile = 0; tile < kHeadTiles; ++tile) {
          Element::MultiplyAdd(chains[i % kChains][tile], rows, q_[tile][column * kBlocks * Tiles::kSteps + i]);
        }
      }
    }
#pragma unroll
    for (int tile = 0; tile < kHeadTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        scores[tile][i] = chains[0][tile][i] + chains[1][tile][i];
        if constexpr (kChains == 4) scores[tile][i] += chains[2][tile][i] + chains[3][tile][i];
      }
    }
  }

  __device__ static bool IsVisible(const Unit& unit, int token) {
    return token >= static_cast<int>(unit.span & 0xff) && token < static_cast<int>(unit.span >> 8);
  }
  // Ones where tokens first + 2 * pair_ and the next are visible.
  __device__ uint32_t TokenMask(const Unit& unit, int first) const {
    const int token = first + 2 * pair_;
    return (IsVisible(unit, token) ? 0xffffu : 0u) | (IsVisible(unit, token + 1) ? 0xffff0000u : 0u);
  }

  __device__ void MaskScores(const Unit& unit, float (&scores)[kHeadTiles][4]) const {
#pragma unroll
    for (int tile = 0; tile < kHeadTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int head = tile * kHeadTile + 2 * pair_ + i % 2;
        const bool reads = (unit.head_mask >> head & 1u) != 0 && IsVisible(unit, channel_ + i / 2 * 8);
        if (!reads) scores[tile][i] = kNegativeInfinity;
      }
    }
  }

  // Folds the scores into maximum_ and sum_ and scales out_ to the new maximum. The weights come as the second
  // product wants them: tokens 2 * pair_ (+ 8) and the next, of head channel_.
  __device__ void UpdateState(float (&scores)[kHeadTiles][4], uint32_t (&weights)[kHeadTiles][2]) {
#pragma unroll
    for (int tile = 0; tile < kHeadTiles; ++tile) {
      float newest[2], decay[2];
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[tile][i] *= scale_;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        newest[i] = fmaxf(maximum_[tile][i], fmaxf(scores[tile][i], scores[tile][i + 2]));
#pragma unroll
        for (int offset = 4; offset < kWarpThreads; offset *= 2) {
          newest[i] = fmaxf(newest[i], __shfl_xor_sync(kWholeWarp, newest[i], offset));
        }
      }
      const bool rises = newest[0] != maximum_[tile][0] || newest[1] != maximum_[tile][1];
      float base[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        base[i] = newest[i] == kNegativeInfinity ? 0.0f : newest[i];
        decay[i] = Exp2(maximum_[tile][i] - base[i]);
        maximum_[tile][i] = newest[i];
      }
      if (__any_sync(kWholeWarp, rises)) {
#pragma unroll
        for (int i = 0; i < 2; ++i) sum_[tile][i] *= decay[i];
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
#pragma unroll
          for (int i = 0; i < 4; ++i) out_[tile][step][i] *= decay[i % 2];
        }
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[tile][i] = Exp2(scores[tile][i] - base[i % 2]);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        sum_[tile][i] += scores[tile][i] + scores[tile][i + 2];
        weights[tile][i] = TransposeMatrix(Element::Pack(scores[tile][2 * i], scores[tile][2 * i + 1]));
      }
    }
  }

  __device__ static void LoadValues(uint32_t address, int column, uint32_t (&values)[kBlocks][4]) {
    const uint32_t tile_address = address + (SharedMemory::kColumns + column) * kTileBytes;
    LoadMatricesTransposed({tile_address + ValueOffset(0), tile_address + ValueOffset(1), tile_address + ValueOffset(2),
                            tile_address + ValueOffset(3)},
                           values);
  }

  // `values` holds the first column. Those of unseen tokens may be anything, NaN included, so that their zero weight is
  // not enough.
  __device__ void AddValues(uint32_t address, uint32_t low_mask, uint32_t high_mask,
                            const uint32_t (&weights)[kHeadTiles][2], uint32_t (&values)[kBlocks][4]) {
#pragma unroll
    for (int column = 0; column < SharedMemory::kColumns; ++column) {
      if (column > 0) LoadValues(address, column, values);
#pragma unroll
      for (int i = 0; i < kBlocks * Tiles::kSteps; ++i) {
        uint32_t rows[4];
        Tiles::Values(values[i / Tiles::kSteps], i % Tiles::kSteps, rows);
        rows[0] &= low_mask;
        rows[1] &= low_mask;
        rows[2] &= high_mask;
        rows[3] &= high_mask;
#pragma unroll
        for (int tile = 0; tile < kHeadTiles; ++tile) {
          Element::MultiplyAdd(out_[tile][column * kBlocks * Tiles::kSteps + i], rows, weights[tile]);
        }
      }
    }
  }

  __device__ void EndItem(const Item& item) {
#pragma unroll
    for (int tile = 0; tile < kHeadTiles; ++tile) MergeWarps(item, tile);
    if (item.num_splits == 1) return;
    SyncConsumers();
    if (threadIdx.x == 0) {
      // Announces what the barrier has gathered of the block, and sees what earlier tickets announced.
      shared_.ticket = AddAcquireRelease(&plan_.tickets[item.list], 1);
      if (shared_.ticket == static_cast<uint32_t>(item.num_splits) - 1) plan_.tickets[item.list] = 0;
    }
    SyncConsumers();
    if (shared_.ticket == static_cast<uint32_t>(item.num_splits) - 1) {
      SplitMerger<SharedMemory>(args_.common, plan_, item, &shared_).Run();
    }
  }

  // Merges the four warps' states of a head tile; each warp ends with a quarter of the channels and stores it.
  __device__ __forceinline__ void MergeWarps(const Item& item, int tile) {
    constexpr int kQuarter = kSteps / kConsumerWarps;
    float sums[2], maxima[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      sums[i] = StaticTile(sum_, tile)[i];
      maxima[i] = StaticTile(maximum_, tile)[i];
#pragma unroll
      for (int offset = 4; offset < kWarpThreads; offset *= 2) {
        sums[i] += __shfl_xor_sync(kWholeWarp, sums[i], offset);
      }
    }
    SyncConsumers();
    if (channel_ == 0) {
      shared_.states[warp_][2 * pair_] = make_float2(maxima[0], sums[0]);
      shared_.states[warp_][2 * pair_ + 1] = make_float2(maxima[1], sums[1]);
    }
    float4 own[kQuarter];
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const float(&out)[4] = StaticTile(out_, tile)[step];
      const float4 part = make_float4(out[0], out[1], out[2], out[3]);
      const int owner = step / kQuarter;
      if (owner == warp_) {
        own[step % kQuarter] = part;
      } else {
        shared_.exchange[owner][warp_ < owner ? warp_ : warp_ - 1][step % kQuarter][lane_] = part;
      }
    }
    SyncConsumers();
    float2 states[2];
    float weights[kConsumerWarps][2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      states[i] = make_float2(kNegativeInfinity, 0);
#pragma unroll
      for (int warp = 0; warp < kConsumerWarps; ++warp) {
        states[i].x = fmaxf(states[i].x, shared_.states[warp][2 * pair_ + i].x);
      }
#pragma unroll
      for (int warp = 0; warp < kConsumerWarps; ++warp) {
        const float2 state = shared_.states[warp][2 * pair_ + i];
        weights[warp][i] = StateWeight(state, states[i].x);
        states[i].y = fmaf(state.y, weights[warp][i], states[i].y);
      }
    }
#pragma unroll
    for (int i = 0; i < kQuarter; ++i) {
      float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll
      for (int warp = 0; warp < kConsumerWarps; ++warp) {
        const float4 part = warp == warp_ ? own[i] : shared_.exchange[warp_][warp < warp_ ? warp : warp - 1][i][lane_];
        AddWeighted(&sum, part, weights[warp][0], weights[warp][1]);
      }
      Store(item, tile, warp_ * kQuarter + i, sum, states);
    }
    if (warp_ == 0) StoreStates(item, tile, states);
  }

  template <typename T>
  __device__ static auto& StaticTile(T& tiles, int tile) {
    if constexpr (kHeadTiles == 1) return tiles[0];
    return tiles[tile];
  }

  // `sum` is of the channels of rows channel_ and channel_ + 8 of a row tile, of heads 2 * pair_ and the next.
  __device__ void Store(const Item& item, int tile, int row_tile, float4 sum, const float2 (&states)[2]) const {
    if (pair_ >= plan_.head_pairs || row_tile >= plan_.row_tiles) return;
    if (item.num_splits > 1) {
      float4* slot =
          plan_.partial_outs + (int64_t{item.first_slot + item.split} * kHeadTiles + tile) * plan_.partial_tile_size();
      slot[(row_tile * 8 + channel_) * plan_.head_pairs + pair_] = sum;
      return;
    }
    StoreOut<Tiles::kRowDistance>(args_.common, plan_, item, tile * kHeadTile + 2 * pair_,
                                  row_tile * 16 + Tiles::RowChannel(channel_), sum, states);
  }

  __device__ void StoreStates(const Item& item, int tile, const float2 (&states)[2]) const {
    if (channel_ != 0) return;
    if (item.num_splits > 1) {
      float2* slot = plan_.partial_states + int64_t{item.first_slot + item.split} * SharedMemory::kHeads;
      slot[tile * kHeadTile + 2 * pair_] = states[0];
      slot[tile * kHeadTile + 2 * pair_ + 1] = states[1];
      return;
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) StoreState(args_.common, plan_, item, tile * kHeadTile + 2 * pair_ + i, states[i]);
  }

  const DecodeAttentionArgs& args_;
  const Plan& plan_;
  SharedMemory& shared_;
  const float scale_;
  const int warp_;
  const int lane_;
  const int pair_;     // which heads of the products a lane holds
  const int channel_;  // which rows
  GroupQuery<Element> query_;
  uint32_t q_[kHeadTiles][kSteps][2];
  float out_[kHeadTiles][kSteps][4];
  float maximum_[kHeadTiles][2];
  float sum_[kHeadTiles][2];
  int stage_ = 0;
  uint32_t phase_ = 0;
};

}  // namespace farspan::kernels::cuda::decode
