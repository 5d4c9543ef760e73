// SPDX-License-Identifier: Apache-2.0
// The computing side of the decode kernel. Keys are the rows of the first product and channels those of the second, so
// that the few query heads of a group fill the narrow side of both; a warp keeps its own softmax state of the units it
// read, four warps' states are merged when an item ends, and an item's with those of its list by whoever ends last.
#pragma once

#include "engine/kernels/cuda/decode_instructions.cuh"
#include "engine/kernels/cuda/decode_layout.cuh"
#include "engine/kernels/cuda/device.cuh"

namespace farspan::kernels::cuda::decode {

inline constexpr float kNegativeInfinity = -__builtin_huge_valf();
inline constexpr float kLog2E = 1.4426950408889634f;
inline constexpr float kLn2 = 0.6931471805599453f;
inline constexpr int kConsumerBarrier = 1;

__device__ inline void SyncConsumers() { SyncThreads(kConsumerBarrier, kConsumerThreads); }

// How much a state of that maximum and sum counts beside `maximum`. An empty one counts nothing, and NaN stays.
__device__ inline float StateWeight(float2 state, float maximum) {
  return state.y == 0 ? 0.0f : Exp2(state.x - maximum);
}

__device__ inline float2 AddWeighted(float2 sum, float2 value, float weight) {
  return make_float2(fmaf(value.x, weight, sum.x), fmaf(value.y, weight, sum.y));
}

// Products of two heads by two channels, 8 apart: {head 0, head 1} of channel c, then of c + 8.
__device__ inline void AddWeighted(float4* sum, float4 value, float first, float second) {
  sum->x = fmaf(value.x, first, sum->x);
  sum->y = fmaf(value.y, second, sum->y);
  sum->z = fmaf(value.z, first, sum->z);
  sum->w = fmaf(value.w, second, sum->w);
}

template <int kDim, int kHeadTiles, typename Element>
class Consumer {
 public:
  using SharedMemory = Shared<kDim, kHeadTiles>;
  static constexpr int kSteps = kDim / 16;

  __device__ Consumer(const DecodeAttentionArgs& args, const Plan& plan, SharedMemory* shared)
      : args_(args),
        plan_(plan),
        shared_(*shared),
        scale_(args.common.scale * kLog2E),
        group_(static_cast<int>(args.common.num_heads / args.common.cache.num_kv_heads)),
        head_dim_(static_cast<int>(args.common.cache.head_dim)),
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
  __device__ int64_t FirstHead(const Item& item) const {
    return item.row * args_.common.num_heads + item.list % args_.common.cache.num_kv_heads * group_;
  }

  // Channels 2 * pair_ and the next of a step, of the query head channel_: what a lane holds of a column.
  __device__ uint32_t QueryWord(int tile, int step, int half) const {
    const int head = tile * kHeadTile + channel_, channel = step * 16 + half * 8 + 2 * pair_;
    if (head >= group_ || channel >= head_dim_) return 0;
    const uint16_t* q = query_ + static_cast<int64_t>(head) * head_dim_ + channel;
    return *reinterpret_cast<const uint32_t*>(q);
  }

  __device__ void LoadQuery(const Item& item) {
    query_ = static_cast<const uint16_t*>(args_.common.q) + FirstHead(item) * head_dim_;
#pragma unroll
    for (int tile = 0; tile < kHeadTiles; ++tile) {
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          q_[tile][step][half] = Element::FromBf16(QueryWord(tile, step, half));
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
    float scores[kHeadTiles][4];
    if (unit.turn == 0) {
      Score(address, scores);
    } else {
      ScoreTurned(address, unit.turn, scores);
    }
    const bool is_plain = unit.span == (kUnitTokens << 8) && (unit.head_mask & plan_.group_heads) == plan_.group_heads;
    if (!is_plain) MaskScores(unit, scores);
    uint32_t weights[kHeadTiles][2];
    UpdateState(scores, weights);
    AddValues(address, is_plain ? UINT32_MAX : TokenMask(unit, 0), is_plain ? UINT32_MAX : TokenMask(unit, 8), weights);
  }

  // Offset in a 128-byte wide tile of this lane's row of a 16 x 16 block of keys, for `step` of its four.
  __device__ uint32_t KeyOffset(int step) const {
    return static_cast<uint32_t>(lane_ % 16 * 128 + (((lane_ / 16) ^ (lane_ % 8)) << 4 ^ step << 5));
  }
  // The same of a block of values, whose tokens are columns of the product.
  __device__ uint32_t ValueOffset(int step) const {
    const int token = lane_ % 8 + lane_ / 16 * 8;
    return static_cast<uint32_t>(token * 128 + (((lane_ / 8 % 2) ^ (lane_ % 8)) << 4 ^ step << 5));
  }

  // scores[token channel_ (+ 8)][heads 2 * pair_ and the next]
  __device__ void Score(uint32_t address, float (&scores)[kHeadTiles][4]) const {
    float odd[kHeadTiles][4];  // two chains of products instead of one twice as long
#pragma unroll
    for (int tile = 0; tile < kHeadTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[tile][i] = odd[tile][i] = 0;
    }
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      uint32_t keys[4];
      LoadMatrices(address + step / 4 * 2 * kTileBytes + KeyOffset(step % 4), keys);
#pragma unroll
      for (int tile = 0; tile < kHeadTiles; ++tile) {
        Element::MultiplyAdd(step % 2 == 0 ? scores[tile] : odd[tile], keys, q_[tile][step]);
      }
    }
#pragma unroll
    for (int tile = 0; tile < kHeadTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[tile][i] += odd[tile][i];
    }
  }

  // The same with the query turned, which is rare: its words are read again, and the rounding of what turning gives is
  // kept apart in a second product.
  __device__ void ScoreTurned(uint32_t address, int64_t turn, float (&scores)[kHeadTiles][4]) const {
#pragma unroll
    for (int tile = 0; tile < kHeadTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[tile][i] = 0;
    }
#pragma unroll 1
    for (int step = 0; step < (head_dim_ + 15) / 16; ++step) {
      uint32_t keys[4];
      LoadMatrices(address + step / 4 * 2 * kTileBytes + KeyOffset(step % 4), keys);
      float2 cos_sin[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) cos_sin[half] = TurnOf(step * 8 + half * 4 + pair_, turn);
#pragma unroll
      for (int tile = 0; tile < kHeadTiles; ++tile) {
        uint32_t high[2], low[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const float2 q = Bf16Element::Unpack(QueryWord(tile, step, half)), by = cos_sin[half];
          const float2 turned = make_float2(q.x * by.x - q.y * by.y, q.x * by.y + q.y * by.x);
          high[half] = Element::Pack(turned.x, turned.y);
          const float2 kept = Element::Unpack(high[half]);
          low[half] = Element::Pack(turned.x - kept.x, turned.y - kept.y);
        }
        Element::MultiplyAdd(scores[tile], keys, high);
        Element::MultiplyAdd(scores[tile], keys, low);
      }
    }
  }

  __device__ float2 TurnOf(int rope_pair, int64_t turn) const {
    if (2 * rope_pair >= args_.common.rope_dim) return make_float2(1, 0);
    constexpr double kInverseTwoPi = 0.15915494309189535;
    const double turns = static_cast<double>(turn) * args_.common.inverse_frequencies[rope_pair] * kInverseTwoPi;
    float2 cos_sin;
    sincospif(static_cast<float>(2 * (turns - rint(turns))), &cos_sin.y, &cos_sin.x);
    return cos_sin;
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

  // Values of unseen tokens may be anything, NaN included, so that their zero weight is not enough.
  __device__ void AddValues(uint32_t address, uint32_t low_mask, uint32_t high_mask,
                            const uint32_t (&weights)[kHeadTiles][2]) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      uint32_t values[4];
      LoadMatricesTransposed(address + (step / 4 * 2 + 1) * kTileBytes + ValueOffset(step % 4), values);
      values[0] &= low_mask;
      values[1] &= low_mask;
      values[2] &= high_mask;
      values[3] &= high_mask;
#pragma unroll
      for (int tile = 0; tile < kHeadTiles; ++tile) Element::MultiplyAdd(out_[tile][step], values, weights[tile]);
    }
  }

  __device__ void EndItem(const Item& item) {
#pragma unroll
    for (int tile = 0; tile < kHeadTiles; ++tile) MergeWarps(item, tile);
    if (item.num_splits == 1) return;
    // The barrier gathers the block's partial state before the ticket that announces it.
    SyncConsumers();
    if (threadIdx.x == 0) {
      __threadfence();
      shared_.ticket = atomicAdd(&plan_.tickets[item.list], 1u);
      if (shared_.ticket == static_cast<uint32_t>(item.num_splits) - 1) plan_.tickets[item.list] = 0;
      __threadfence();
    }
    SyncConsumers();
    if (shared_.ticket == static_cast<uint32_t>(item.num_splits) - 1) MergeSplits(item);
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

  // `sum` is of channels row_tile * 16 + channel_ and the eighth after, of heads 2 * pair_ and the next.
  __device__ void Store(const Item& item, int tile, int row_tile, float4 sum, const float2 (&states)[2]) const {
    if (pair_ >= plan_.head_pairs || row_tile >= plan_.row_tiles) return;
    if (item.num_splits > 1) {
      float4* slot =
          plan_.partial_outs + (int64_t{item.first_slot + item.split} * kHeadTiles + tile) * plan_.partial_tile_size();
      slot[(row_tile * 8 + channel_) * plan_.head_pairs + pair_] = sum;
      return;
    }
    StoreOut(item, tile * kHeadTile + 2 * pair_, row_tile * 16 + channel_, sum, states);
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
    for (int i = 0; i < 2; ++i) StoreLse(item, tile * kHeadTile + 2 * pair_ + i, states[i]);
  }

  __device__ void StoreLse(const Item& item, int head, float2 state) const {
    if (args_.common.lse == nullptr || head >= group_) return;
    args_.common.lse[FirstHead(item) + head] = (state.x + log2f(state.y)) * kLn2;
  }

  // Channels `channel` and channel + 8 of heads `head` and the next.
  __device__ void StoreOut(const Item& item, int head, int channel, float4 sum, const float2 (&states)[2]) const {
    uint16_t* out = static_cast<uint16_t*>(args_.common.out) + (FirstHead(item) + head) * head_dim_ + channel;
    const float values[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (head + i % 2 >= group_) continue;
      const float denominator = states[i % 2].y;
      const float inverse = denominator == 0 ? 0.0f : 1.0f / denominator;
      out[i % 2 * head_dim_ + i / 2 * 8] = ToBf16(values[i] * inverse);
    }
  }

  // Merges the list's partial states in order.
  __device__ void MergeSplits(const Item& item) {
    const float2* states = plan_.partial_states + int64_t{item.first_slot} * SharedMemory::kHeads;
    // Each warp sums up some heads' states; shared_.states is free between items.
    for (int head = warp_; head < group_; head += kConsumerWarps) {
      float2 mine[kMaxSplits / kWarpThreads];
      float maximum = kNegativeInfinity, sum = 0;
#pragma unroll
      for (int i = 0; i < kMaxSplits / kWarpThreads; ++i) {
        const int split = i * kWarpThreads + lane_;
        mine[i] = split < item.num_splits ? __ldcg(&states[split * SharedMemory::kHeads + head])
                                          : make_float2(kNegativeInfinity, 0);
        maximum = fmaxf(maximum, mine[i].x);
      }
#pragma unroll
      for (int offset = 1; offset < kWarpThreads; offset *= 2) {
        maximum = fmaxf(maximum, __shfl_xor_sync(kWholeWarp, maximum, offset));
      }
#pragma unroll
      for (int i = 0; i < kMaxSplits / kWarpThreads; ++i) sum = fmaf(mine[i].y, StateWeight(mine[i], maximum), sum);
      sum = WarpSum(sum);
      if (lane_ == 0) {
        shared_.states[0][head] = make_float2(maximum, sum);
        StoreLse(item, head, make_float2(maximum, sum));
      }
    }
    SyncConsumers();
    const int tile_size = static_cast<int>(plan_.partial_tile_size());
    for (int place = threadIdx.x; place < kHeadTiles * tile_size; place += kConsumerThreads) {
      MergePlace(item, place / tile_size, place % tile_size);
    }
  }

  __device__ void MergePlace(const Item& item, int tile, int place) {
    const int head = tile * kHeadTile + place % plan_.head_pairs * 2, row = place / plan_.head_pairs;
    const int64_t stride = kHeadTiles * plan_.partial_tile_size();
    const float4* part = plan_.partial_outs + item.first_slot * stride + tile * plan_.partial_tile_size() + place;
    const auto* state = reinterpret_cast<const float4*>(
        plan_.partial_states + int64_t{item.first_slot} * SharedMemory::kHeads + head);  // of both heads
    const float2 total[2] = {shared_.states[0][head], shared_.states[0][head + 1]};
    float4 sum = make_float4(0, 0, 0, 0);
    constexpr int kInFlight = 8;
    for (int first = 0; first < item.num_splits; first += kInFlight) {
      float4 parts[kInFlight], both[kInFlight];
#pragma unroll
      for (int i = 0; i < kInFlight; ++i) {
        if (first + i >= item.num_splits) break;
        parts[i] = __ldcg(part + (first + i) * stride);
        both[i] = __ldcg(state + (first + i) * SharedMemory::kHeads / 2);
      }
#pragma unroll
      for (int i = 0; i < kInFlight; ++i) {
        if (first + i >= item.num_splits) break;
        AddWeighted(&sum, parts[i], StateWeight(make_float2(both[i].x, both[i].y), total[0].x),
                    StateWeight(make_float2(both[i].z, both[i].w), total[1].x));
      }
    }
    StoreOut(item, head, row / 8 * 16 + row % 8, sum, total);
  }

  const DecodeAttentionArgs& args_;
  const Plan& plan_;
  SharedMemory& shared_;
  const float scale_;
  const int group_;
  const int head_dim_;
  const int warp_;
  const int lane_;
  const int pair_;     // which heads of the products a lane holds
  const int channel_;  // which rows
  const uint16_t* query_ = nullptr;
  uint32_t q_[kHeadTiles][kSteps][2];
  float out_[kHeadTiles][kSteps][4];
  float maximum_[kHeadTiles][2];
  float sum_[kHeadTiles][2];
  int stage_ = 0;
  uint32_t phase_ = 0;
};

}  // namespace farspan::kernels::cuda::decode
