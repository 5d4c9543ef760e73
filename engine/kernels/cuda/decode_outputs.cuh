// SPDX-License-Identifier: Apache-2.0
// Where the decode kernel's softmax states end: the output of a list that one item covers, or a partial state in memory
// and, by the block whose item is the last of its list to end, the merged output.
#pragma once

#include "engine/kernels/cuda/decode_elements.cuh"
#include "engine/kernels/cuda/decode_instructions.cuh"
#include "engine/kernels/cuda/decode_layout.cuh"
#include "engine/kernels/cuda/device.cuh"

namespace farspan::kernels::cuda::decode {

inline constexpr float kNegativeInfinity = -__builtin_huge_valf();
inline constexpr float kLog2E = 1.4426950408889634f;
inline constexpr float kLn2 = 0.6931471805599453f;

__device__ inline void SyncConsumers() { SyncThreads(1, kConsumerThreads); }

// How much a state {maximum, sum} counts beside `maximum`. An empty one counts nothing, and NaN stays.
__device__ inline float StateWeight(float2 state, float maximum) {
  return state.y == 0 ? 0.0f : Exp2(state.x - maximum);
}

// Of two heads by two channels: {head 0, head 1} of one channel, then of the other.
__device__ inline void AddWeighted(float4* sum, float4 value, float first, float second) {
  sum->x = fmaf(value.x, first, sum->x);
  sum->y = fmaf(value.y, second, sum->y);
  sum->z = fmaf(value.z, first, sum->z);
  sum->w = fmaf(value.w, second, sum->w);
}

// What becomes of a head's softmax state beside its output.
__device__ inline void StoreState(const AttentionCommon& common, const Plan& plan, const Item& item, int head,
                                  float2 state) {
  if (head >= plan.group) return;
  const int64_t index = item.first_head + head;
  if (common.lse != nullptr) common.lse[index] = (state.x + __log2f(state.y)) * kLn2;
  if (plan.states.out == nullptr) return;
  plan.states.maximum[index] = state.x * kLn2;
  plan.states.sum[index] = state.y;
}

template <int kDistance>
__device__ void StorePair(float* out, float first, float second, bool is_real) {
  if (!is_real) return;
  out[0] = first;
  out[kDistance] = second;
}

// Of a softmax sum; 0 where a head saw nothing.
__device__ inline float Inverse(float sum) { return sum == 0 ? 0.0f : __fdividef(1.0f, sum); }

// Channels `channel` and channel + kDistance of heads `head` and the next, whose states are given.
template <int kDistance>
__device__ void StoreOut(const AttentionCommon& common, const Plan& plan, const Item& item, int head, int channel,
                         float4 sum, const float2 (&states)[2]) {
  const int64_t head_dim = common.cache.head_dim, index = (item.first_head + head) * head_dim + channel;
  if (plan.states.out != nullptr) {
    StorePair<kDistance>(plan.states.out + index, sum.x, sum.z, head < plan.group);
    StorePair<kDistance>(plan.states.out + index + head_dim, sum.y, sum.w, head + 1 < plan.group);
    return;
  }
  uint16_t* out = static_cast<uint16_t*>(common.out) + index;
  const float2 inverse = make_float2(Inverse(states[0].y), Inverse(states[1].y));
  const uint32_t first = Bf16Element::Pack(sum.x * inverse.x, sum.z * inverse.x);
  const uint32_t second = Bf16Element::Pack(sum.y * inverse.y, sum.w * inverse.y);
  if (head < plan.group) {
    out[0] = static_cast<uint16_t>(first);
    out[kDistance] = static_cast<uint16_t>(first >> 16);
  }
  if (head + 1 < plan.group) {
    out[head_dim] = static_cast<uint16_t>(second);
    out[head_dim + kDistance] = static_cast<uint16_t>(second >> 16);
  }
}

// Merges the partial states of a list in order; all consumers run it, between items. Little code: it runs once or
// twice in a launch, when its instructions are fetched from far.
template <typename SharedMemory>
class SplitMerger {
 public:
  __device__ SplitMerger(const AttentionCommon& common, const Plan& plan, const Item& item, SharedMemory* shared)
      : common_(common), plan_(plan), item_(item), shared_(*shared) {}

  __device__ void Run() {
    const int tile_size = plan_.partial_tile_size(), places = kHeadTiles * tile_size;
    const auto thread = static_cast<int>(threadIdx.x);
    // Where there are few places, 2^shift threads share one, each a stretch of the splits.
    const int shift = places <= kConsumerThreads / 4 ? 2 : places <= kConsumerThreads / 2 ? 1 : 0;
    const int width = kConsumerThreads >> shift, sharer = thread >> (kConsumerThreadBits - shift);
    const int first_split = item_.num_splits * sharer >> shift, end_split = item_.num_splits * (sharer + 1) >> shift;
    bool is_weighed = false;
#pragma unroll 1
    for (int first_place = 0; first_place < places; first_place += width) {
      const int place = first_place + (thread & (width - 1)), tile = place >= tile_size ? 1 : 0;
      const int row = (place - tile * tile_size) / plan_.head_pairs;
      const int head = tile * kHeadTile + (place - tile * tile_size - row * plan_.head_pairs) * 2;
      float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 1
      for (int first = first_split; first < end_split || !is_weighed; first += kInFlight) {
        float4 parts[kInFlight];
        if (place < places) LoadParts(place, first, end_split, parts);
        if (!is_weighed) {
          for (int i = threadIdx.x / kWarpThreads; i < plan_.group; i += kConsumerWarps) WeighSplits(i);
          SyncConsumers();
          is_weighed = true;
        }
#pragma unroll
        for (int i = 0; i < kInFlight; ++i) {
          if (first + i >= end_split) break;
          AddWeighted(&sum, parts[i], shared_.merge.weights[first + i][head],
                      shared_.merge.weights[first + i][head + 1]);
        }
      }
      if (shift > 0) AddSharers(width, &sum);
      if (place >= places || sharer > 0) continue;
      const float2 totals[2] = {shared_.merged_states[head], shared_.merged_states[head + 1]};
      StoreOut<Channels::kRowDistance>(common_, plan_, item_, head, row / 8 * 16 + Channels::RowChannel(row % 8), sum,
                                       totals);
    }
  }

 private:
  static constexpr int kHeadTiles = SharedMemory::kHeads / kHeadTile;
  static constexpr int kInFlight = 8, kConsumerThreadBits = 7;
  static_assert(1 << kConsumerThreadBits == kConsumerThreads);
  using Channels = Fragments<typename SharedMemory::Element>;

  // Splits [first, first + kInFlight), those before `end`, of one place of the partial outputs.
  __device__ void LoadParts(int place, int first, int end, float4 (&parts)[kInFlight]) const {
    const int64_t stride = kHeadTiles * plan_.partial_tile_size();
    const float4* part = plan_.partial_outs + (item_.first_slot + first) * stride + place;
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      if (first + i < end) parts[i] = __ldcg(part + i * stride);
    }
  }

  // Gives the first of each place's sharers the sum of all.
  __device__ void AddSharers(int width, float4* sum) {
    shared_.merge.sums[threadIdx.x] = *sum;
    SyncConsumers();
    if (static_cast<int>(threadIdx.x) >= width) return;
    for (int i = threadIdx.x + width; i < kConsumerThreads; i += width) AddWeighted(sum, shared_.merge.sums[i], 1, 1);
  }

  // Weight of each split in the list's state of one head, a warp a head.
  __device__ void WeighSplits(int head) {
    const float2* states = plan_.partial_states + int64_t{item_.first_slot} * SharedMemory::kHeads + head;
    const int lane = threadIdx.x % kWarpThreads;
    float2 mine[kMaxSplits / kWarpThreads];
    float maximum = kNegativeInfinity, sum = 0;
#pragma unroll
    for (int i = 0; i < kMaxSplits / kWarpThreads; ++i) {
      const int split = i * kWarpThreads + lane;
      mine[i] =
          split < item_.num_splits ? __ldcg(&states[split * SharedMemory::kHeads]) : make_float2(kNegativeInfinity, 0);
      maximum = fmaxf(maximum, mine[i].x);
    }
#pragma unroll
    for (int offset = 1; offset < kWarpThreads; offset *= 2) {
      maximum = fmaxf(maximum, __shfl_xor_sync(kWholeWarp, maximum, offset));
    }
#pragma unroll
    for (int i = 0; i < kMaxSplits / kWarpThreads; ++i) {
      const float weight = StateWeight(mine[i], maximum);
      shared_.merge.weights[i * kWarpThreads + lane][head] = weight;
      sum = fmaf(mine[i].y, weight, sum);
    }
    sum = WarpSum(sum);
    if (lane != 0) return;
    shared_.merged_states[head] = make_float2(maximum, sum);
    StoreState(common_, plan_, item_, head, make_float2(maximum, sum));
  }

  const AttentionCommon& common_;
  const Plan& plan_;
  const Item item_;
  SharedMemory& shared_;
};

}  // namespace farspan::kernels::cuda::decode
