// SPDX-License-Identifier: Apache-2.0
// The consuming warpgroups of Hopper's prefill attention: scores, softmax and sums of the tiles that the producer lays
// in shared memory, 64 queries a warpgroup. The two take turns: while one's softmax runs on the cores, the other's
// matrix products run on the tensor cores; and within one, the scores of the next keys are computed while the values of
// the last are summed.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "engine/kernels/args.h"
#include "engine/kernels/cuda/device.cuh"
#include "engine/kernels/cuda/hopper.cuh"
#include "engine/kernels/cuda/hopper_prefill_producer.cuh"

namespace farspan::kernels::cuda::hopper {

inline constexpr int kWarpgroupThreads = 128;
inline constexpr int kWarpgroups = 2;
inline constexpr int kConsumerThreads = kWarpgroups * kWarpgroupThreads;
inline constexpr int kConsumerWarps = kConsumerThreads / kWarpThreads;
inline constexpr int kBlockThreads = kConsumerThreads + kWarpgroupThreads;
inline constexpr int kProducerRegisters = 56;
inline constexpr int kConsumerRegisters = 224;
inline constexpr int kWarpgroupQueries = kTileQueries / kWarpgroups;
inline constexpr int kScores = kTileKeys / 2;  // a thread's, of its two queries
inline constexpr float kNegativeInfinity = -__builtin_huge_valf();
inline constexpr float kLog2E = 1.4426950408889634f;
inline constexpr float kLn2 = 0.6931471805599453f;

// Weights are powers of two relative to a shift that follows the greatest score so far with some slack: floats have
// room for both. The shift moves once a maximum is beyond it by kSlackLog2 or, where maxima are not looked at, once a
// thread's weights of a tile add up to kGrowth. Beyond kOverflow they may have overflowed on the way. Weights as f16
// stay below 2^15, and a maximum's is 2^8 at first, so that those which end as zeros are at most 2^-33 of it.
template <Operand kOperand>
struct WeightRange {
  static constexpr float kLiftLog2 = 0;
  static constexpr float kSlackLog2 = 8;
  static constexpr float kGrowth = 0x1p16f;
};
template <>
struct WeightRange<Operand::kF16> {
  static constexpr float kLiftLog2 = 8;
  static constexpr float kSlackLog2 = 6;
  static constexpr float kGrowth = 0x1p15f;
};
inline constexpr float kOverflow = 0x1p64f;

__device__ inline float Exp2(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// Two neighbouring columns of an operand. To f16, magnitudes beyond 65504 become that.
template <Operand kOperand>
__device__ inline uint32_t Pack(float low, float high) {
  uint32_t packed;
  if constexpr (kOperand == Operand::kBf16) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.satfinite.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  }
  return packed;
}

__device__ inline float2 UnpackBf16(uint32_t packed) {
  return make_float2(__uint_as_float(packed << 16), __uint_as_float(packed & 0xffff0000u));
}

template <Operand kOperand>
__device__ inline float2 Unpack(uint32_t packed) {
  if constexpr (kOperand == Operand::kBf16) return UnpackBf16(packed);
  return __half22float2(*reinterpret_cast<const __half2*>(&packed));
}

// One thread's share of two queries' softmax.
template <int kHeadDim, Operand kOperand>
struct Softmax {
  using Range = WeightRange<kOperand>;
  float shift[2] = {0, 0};                                  // what scaled scores are relative to, in powers of two
  float limit[2] = {kNegativeInfinity, kNegativeInfinity};  // scaled scores beyond it move the shift
  float denominator[2] = {0, 0};                            // of this thread's columns
  float decay[2] = {1, 1};                                  // what the sums so far are to be multiplied by
  bool overflowed = false;                                  // nothing here counts: weigh by maxima
  float out[kHeadDim / 2];

  __device__ __forceinline__ void Reset() {
#pragma unroll
    for (int i = 0; i < kHeadDim / 2; ++i) out[i] = 0;
  }

  // Whether each query of the warp has seen a key, so that its shift means something.
  __device__ __forceinline__ bool Settled() const {
    return !__any_sync(kWholeWarp, limit[0] == kNegativeInfinity || limit[1] == kNegativeInfinity);
  }

  // Turns scores into weights and adds them to the denominators. Says whether `out` must decay, warp-wide.
  __device__ __forceinline__ bool Weigh(float (&scores)[kScores], float scale_log2) {
    float top[4] = {scores[0], scores[1], scores[2], scores[3]};
#pragma unroll
    for (int i = 4; i < kScores; ++i) top[i % 4] = fmaxf(top[i % 4], scores[i]);
    top[0] = QuadMax(fmaxf(top[0], top[1])) * scale_log2;
    top[1] = QuadMax(fmaxf(top[2], top[3])) * scale_log2;
    const bool grows = __any_sync(kWholeWarp, top[0] > limit[0] || top[1] > limit[1]);
    if (grows) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        decay[r] = 1;
        if (top[r] > limit[r]) {
          const float to = top[r] - Range::kLiftLog2;
          decay[r] = limit[r] == kNegativeInfinity ? 0 : Exp2(shift[r] - to);
          shift[r] = to;
          limit[r] = top[r] + Range::kSlackLog2;
          denominator[r] *= decay[r];
        }
      }
    }
    float sum[2];
    Exponentiate(scores, scale_log2, sum);
    denominator[0] += sum[0];
    denominator[1] += sum[1];
    return grows;
  }

  // The same where Settled(), without a look at the maxima: most tiles need none, and the products wait for it.
  __device__ __forceinline__ bool WeighSettled(float (&scores)[kScores], float scale_log2) {
    float sum[2];
    Exponentiate(scores, scale_log2, sum);
    denominator[0] += sum[0];
    denominator[1] += sum[1];
    const bool grows = __any_sync(kWholeWarp, fmaxf(sum[0], sum[1]) > Range::kGrowth);
    if (grows) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float top = QuadMax(sum[r]);
        overflowed |= top > kOverflow;
        const float growth = top > Range::kGrowth ? floorf(log2f(top)) - Range::kLiftLog2 : 0;
        decay[r] = Exp2(-growth);
        shift[r] += growth;
        limit[r] += growth;
        denominator[r] *= decay[r];
      }
#pragma unroll
      for (int i = 0; i < kScores; ++i) scores[i] *= decay[i / 2 % 2];
    }
    return grows;
  }

  __device__ __forceinline__ void Decay() {
#pragma unroll
    for (int i = 0; i < kHeadDim / 2; ++i) out[i] *= decay[i / 2 % 2];
  }

 private:
  static __device__ __forceinline__ float QuadMax(float value) {
    value = fmaxf(value, __shfl_xor_sync(kWholeWarp, value, 1));
    return fmaxf(value, __shfl_xor_sync(kWholeWarp, value, 2));
  }

  __device__ __forceinline__ void Exponentiate(float (&scores)[kScores], float scale_log2, float (&sum)[2]) const {
    float parts[4] = {0, 0, 0, 0};
#pragma unroll
    for (int i = 0; i < kScores; ++i) {
      scores[i] = Exp2(fmaf(scores[i], scale_log2, -shift[i / 2 % 2]));
      parts[i % 4] += scores[i];
    }
    sum[0] = parts[0] + parts[1];
    sum[1] = parts[2] + parts[3];
  }
};

template <int kHeadDim, KvElement kElement>
class PrefillConsumer {
 public:
  using Shared = PrefillShared<kHeadDim, kElement>;

  __device__ PrefillConsumer(const AttentionCommon& common, Shared* shared)
      : common_(common),
        shared_(*shared),
        scale_log2_(common.scale * kLog2E),
        warpgroup_(static_cast<int>(threadIdx.x) / kWarpgroupThreads),
        lane_(static_cast<int>(threadIdx.x) % kWarpThreads),
        first_query_(static_cast<int>(threadIdx.x) / kWarpThreads * 16 + lane_ / 4) {}

  __device__ __forceinline__ void Run() {
    if (warpgroup_ == 1) ArriveNamed(kFirstTurn, kConsumerThreads);
    for (;;) {
      Wait(&shared_.q_full[q_place_.stage], q_place_.parity);
      item_ = shared_.items[q_place_.stage];
      if (item_.num_queries == 0) return;
      q_address_ = SharedAddress(shared_.q[q_place_.stage]) + warpgroup_ * kWarpgroupQueries * kPanelRowBytes;
      if constexpr (kOperand != Operand::kBf16) ConvertQueries();
      KeepQueries();
      RunItem();
      Release(&shared_.q_empty[q_place_.stage]);
      q_place_.Advance();
    }
  }

 private:
  static constexpr Operand kOperand = ElementTraits<kElement>::kOperand;
  // Steps of 16 channels in which queries are read from shared memory, and those after them, in which they are kept in
  // registers: where it is busy with the widening of keys and values.
  static constexpr int kKeptSteps = ElementTraits<kElement>::kIsRaw ? 4 : 0;
  static constexpr int kReadSteps = kHeadDim / 16 - kKeptSteps;
  // Named barriers, one a warpgroup.
  static constexpr int kFirstTurn = 1;
  static constexpr int kFirstConversion = 3;

  // From bf16, in place.
  __device__ __forceinline__ void ConvertQueries() {
    constexpr uint32_t kBytes = kWarpgroupQueries * kPanelRowBytes;
    const uint32_t first = q_address_ + threadIdx.x % kWarpgroupThreads * 16;
#pragma unroll
    for (uint32_t panel = 0; panel < kHeadDim / kPanelColumns; ++panel) {
#pragma unroll
      for (uint32_t offset = 0; offset < kBytes; offset += kWarpgroupThreads * 16) {
        const uint32_t at = first + panel * kPanelBytes + offset;
        uint32_t words[4];
        LoadShared16(at, words);
#pragma unroll
        for (uint32_t& word : words) {
          const float2 pair = UnpackBf16(word);
          word = Pack<kOperand>(pair.x, pair.y);
        }
        StoreShared16(at, words);
      }
    }
    FenceForAsync();
    SyncNamed(kFirstConversion + warpgroup_, kWarpgroupThreads);
  }

  __device__ __forceinline__ void KeepQueries() {
#pragma unroll
    for (int i = 0; i < 4 * kKeptSteps; ++i) {
      kept_queries_[i] = QueryPair((kReadSteps + i / 4) * 8 + i / 2 % 2 * 4 + lane_ % 4, i % 2);
    }
  }

  // Channels {2 pair, 2 pair + 1} of the thread's first or second query.
  __device__ __forceinline__ uint32_t QueryPair(int pair, int r) const {
    const int query = (first_query_ + 8 * r) % kWarpgroupQueries, piece = pair / 4;
    uint32_t packed;
    asm volatile("ld.shared.u32 %0, [%1];"
                 : "=r"(packed)
                 : "r"(q_address_ + piece / 8 * kPanelBytes + PanelOffset(query, piece % 8) + pair % 4 * 4));
    return packed;
  }

  static __device__ __forceinline__ void PackWeights(const float (&scores)[kScores], uint32_t (&weights)[kScores / 2]) {
#pragma unroll
    for (int i = 0; i < kScores / 2; ++i) weights[i] = Pack<kOperand>(scores[2 * i], scores[2 * i + 1]);
  }

  __device__ __forceinline__ void RunItem() {
    Softmax<kHeadDim, kOperand> softmax;
    softmax.Reset();
    float scores[kScores];
    uint32_t weights[kScores / 2];
    uint32_t flags = AwaitKeys();
    while ((flags & kEnd) == 0) {
      if ((flags & kTurned) != 0) {
        MultiplyTurned(scores);
      } else {
        FenceProducts();
        MultiplyKeys(scores);
        CommitProducts();
        WaitForProducts<0>();
      }
      HoldRegisters(scores);
      FinishKeys(flags, scores);
      if (softmax.Weigh(scores, scale_log2_)) softmax.Decay();
      bool by_sums = !item_.by_maxima && softmax.Settled();
      PackWeights(scores, weights);
      flags = AwaitKeys();
      while ((flags & (kEnd | kTurned)) == 0) {
        SyncNamed(kFirstTurn + warpgroup_, kConsumerThreads);
        FenceProducts();
        MultiplyKeys(scores);
        CommitProducts();
        Wait(&shared_.v_full[v_place_.stage], v_place_.parity);
        FenceProducts();
        MultiplyValues(weights, softmax.out);
        CommitProducts();
        ArriveNamed(kFirstTurn + (warpgroup_ ^ 1), kConsumerThreads);
        WaitForProducts<1>();
        HoldRegisters(scores);
        FinishKeys(flags, scores);
        const bool decays = WeighNext(scores, &softmax, &by_sums);
        HoldRegisters(scores);
        flags = AwaitKeys();
        WaitForProducts<0>();
        HoldRegisters(softmax.out);
        FinishValues();
        if (decays) softmax.Decay();
        PackWeights(scores, weights);
      }
      Wait(&shared_.v_full[v_place_.stage], v_place_.parity);
      FenceProducts();
      MultiplyValues(weights, softmax.out);
      CommitProducts();
      WaitForProducts<0>();
      HoldRegisters(softmax.out);
      FinishValues();
    }
    Release(&shared_.k_empty[k_place_.stage]);
    k_place_.Advance();
    if (softmax.overflowed) shared_.items[q_place_.stage].overflowed = true;
    Store(softmax);
  }

  // Weighs a tile; `*by_sums` is whether a look at the maxima can be spared, and is decided anew where it could not.
  __device__ __forceinline__ bool WeighNext(float (&scores)[kScores], Softmax<kHeadDim, kOperand>* softmax,
                                            bool* by_sums) const {
    if (*by_sums) return softmax->WeighSettled(scores, scale_log2_);
    const bool decays = softmax->Weigh(scores, scale_log2_);
    *by_sums = !item_.by_maxima && softmax->Settled();
    return decays;
  }

  // Waits for the next keys, or the item's end, and returns their flags.
  __device__ __forceinline__ uint32_t AwaitKeys() {
    Wait(&shared_.k_full[k_place_.stage], k_place_.parity);
    return __shfl_sync(kWholeWarp, shared_.notes[k_place_.stage].flags, 0);
  }

  // The warp no longer reads the stage.
  __device__ __forceinline__ void Release(uint64_t* empty) {
    __syncwarp();
    if (lane_ == 0) Arrive(empty);
  }

  // Hides what queries do not see and gives the stage back.
  __device__ __forceinline__ void FinishKeys(uint32_t flags, float (&scores)[kScores]) {
    if ((flags & kMasked) != 0) {
      const uint32_t* seen_by = shared_.notes[k_place_.stage].seen_by + lane_ % 4 * 2;
#pragma unroll
      for (int i = 0; i < kScores; i += 4) {
        const uint2 seen = *reinterpret_cast<const uint2*>(seen_by + i * 2);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const uint32_t range = j % 2 == 0 ? seen.x : seen.y;
          const uint32_t query = static_cast<uint32_t>(first_query_ + j / 2 * 8);
          if (query - (range & 0xffff) >= range >> 16) scores[i + j] = kNegativeInfinity;
        }
      }
    }
    Release(&shared_.k_empty[k_place_.stage]);
    k_place_.Advance();
  }

  __device__ __forceinline__ void FinishValues() {
    Release(&shared_.v_empty[v_place_.stage]);
    v_place_.Advance();
  }

  // Byte offset of columns [16 step, 16 step + 16) of an operand.
  static __device__ __forceinline__ uint32_t ColumnStep(int step) {
    return static_cast<uint32_t>(step / 4) * kPanelBytes + static_cast<uint32_t>(step % 4) * 32;
  }

  __device__ __forceinline__ void MultiplyKeys(float (&scores)[kScores]) {
    const uint64_t q = PanelDescriptor(q_address_, 16);
    const uint64_t k = PanelDescriptor(SharedAddress(shared_.k[k_place_.stage]), 16);
#pragma unroll
    for (int step = 0; step < kHeadDim / 16; ++step) {
      const uint64_t key_step = k + (ColumnStep(step) >> 4);
      if (step < kReadSteps) {
        MultiplyRows<kOperand>(scores, q + (ColumnStep(step) >> 4), key_step, step > 0);
      } else {
        MultiplyRows<kOperand>(scores, kept_queries_ + 4 * (step - kReadSteps), key_step, step > 0);
      }
    }
  }

  __device__ __forceinline__ void MultiplyValues(const uint32_t (&weights)[kScores / 2], float (&out)[kHeadDim / 2]) {
    const uint64_t v = PanelDescriptor(SharedAddress(shared_.v[v_place_.stage]), kPanelBytes);
#pragma unroll
    for (int step = 0; step < kTileKeys / 16; ++step) {
      MultiplyColumns<kOperand>(out, weights + 4 * step, v + (step * 16 * kPanelRowBytes >> 4), true);
    }
  }

  // The scores of queries that are turned to the tile's cap where they lie beyond it; waits for them.
  __device__ __forceinline__ void MultiplyTurned(float (&scores)[kScores]) {
    const int64_t cap = shared_.notes[k_place_.stage].query_cap;
    uint32_t turned[kHeadDim / 4];
#pragma unroll
    for (int step = 0; step < kHeadDim / 16; ++step) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int pair = step * 8 + half * 4 + lane_ % 4;
        const float2 cap_turn = CapTurn(cap, pair);
#pragma unroll
        for (int r = 0; r < 2; ++r) turned[4 * step + 2 * half + r] = TurnPair(cap, cap_turn, pair, r);
      }
    }
    const uint64_t k = PanelDescriptor(SharedAddress(shared_.k[k_place_.stage]), 16);
    FenceProducts();
#pragma unroll
    for (int step = 0; step < kHeadDim / 16; ++step) {
      MultiplyRows<kOperand>(scores, turned + 4 * step, k + (ColumnStep(step) >> 4), step > 0);
    }
    CommitProducts();
    WaitForProducts<0>();
  }

  // {cos, sin} of the cap's own rotation of a pair of channels.
  __device__ __forceinline__ float2 CapTurn(int64_t cap, int pair) const {
    constexpr double kTurnsPerRadian = 0.15915494309189535;
    if (2 * pair >= common_.rope_dim) return make_float2(1, 0);
    const double turns = static_cast<double>(cap) * common_.inverse_frequencies[pair] * kTurnsPerRadian;
    float2 result;
    sincospif(2 * static_cast<float>(turns - rint(turns)), &result.y, &result.x);
    return result;
  }

  // Channels {2 pair, 2 pair + 1} of the thread's first or second query, turned.
  __device__ __forceinline__ uint32_t TurnPair(int64_t cap, float2 cap_turn, int pair, int r) const {
    const int query = first_query_ + 8 * r;
    const uint32_t packed = QueryPair(pair, r);
    if (item_.first_position + query <= cap || query >= item_.num_queries || 2 * pair >= common_.rope_dim) {
      return packed;
    }
    const float2 own = *reinterpret_cast<const float2*>(common_.rope_cos_sin + (item_.row + query) * common_.rope_dim +
                                                        int64_t{2} * pair);
    const float turn_cos = cap_turn.x * own.x + cap_turn.y * own.y, turn_sin = cap_turn.y * own.x - cap_turn.x * own.y;
    const auto [even, odd] = Unpack<kOperand>(packed);
    return Pack<kOperand>(even * turn_cos - odd * turn_sin, even * turn_sin + odd * turn_cos);
  }

  // Four lanes hold eight neighbouring channels of a query; after the exchange each holds those of every fourth eight.
  __device__ __forceinline__ void Store(const Softmax<kHeadDim, kOperand>& softmax) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float sum = softmax.denominator[r];
      sum += __shfl_xor_sync(kWholeWarp, sum, 1);
      sum += __shfl_xor_sync(kWholeWarp, sum, 2);
      const float inverse = sum == 0 ? 0 : 1 / sum;
      const int query = first_query_ + 8 * r;
      const bool valid = query < item_.num_queries;
      const int64_t index = (item_.row + query) * common_.num_heads + item_.head;
      auto* out = static_cast<uint16_t*>(common_.out) + index * kHeadDim;
#pragma unroll
      for (int first = 0; first < kHeadDim / 8; first += 4) {
        uint32_t words[4];
#pragma unroll
        for (int block = 0; block < 4; ++block) {
          const float* pair = softmax.out + 4 * (first + block) + 2 * r;
          words[block] = Pack<Operand::kBf16>(pair[0] * inverse, pair[1] * inverse);
        }
        ExchangeInQuad(words);
        if (valid) *reinterpret_cast<uint4*>(out + (first + lane_ % 4) * 8) = *reinterpret_cast<uint4*>(words);
      }
      if (valid && lane_ % 4 == 0 && common_.lse != nullptr) {
        common_.lse[index] = sum == 0 ? kNegativeInfinity : kLn2 * (softmax.shift[r] + log2f(sum));
      }
    }
  }

  // Lane i's word j becomes lane j's word i, among each four lanes.
  __device__ __forceinline__ void ExchangeInQuad(uint32_t (&words)[4]) const {
#pragma unroll
    for (int distance = 1; distance <= 2; distance *= 2) {
      const bool upper = (lane_ & distance) != 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if ((i & distance) != 0) continue;
        const int j = i + distance;
        const uint32_t received = __shfl_xor_sync(kWholeWarp, upper ? words[i] : words[j], distance);
        words[i] = upper ? received : words[i];
        words[j] = upper ? words[j] : received;
      }
    }
  }

  const AttentionCommon& common_;
  Shared& shared_;
  const float scale_log2_;
  const int warpgroup_;
  const int lane_;
  const int first_query_;  // of the tile, the thread's; the second is 8 further
  uint32_t q_address_ = 0;
  uint32_t kept_queries_[kKeptSteps > 0 ? 4 * kKeptSteps : 1];
  ItemNote item_;
  RingPlace<Shared::kQueryStages> q_place_;
  RingPlace<Shared::kKeyStages> k_place_;
  RingPlace<Shared::kValueStages> v_place_;
};

}  // namespace farspan::kernels::cuda::hopper
