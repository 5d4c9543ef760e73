// SPDX-License-Identifier: Apache-2.0
// A block's part of a row of logits: reading it, walking it in the order of tokens, and how its logits compare and
// weigh.
#pragma once

#include <cfloat>
#include <climits>
#include <cmath>
#include <cstdint>

#include "engine/kernels/cuda/row_blocks.cuh"
#include "engine/kernels/draw_args.h"

namespace farspan::kernels::cuda {

inline constexpr int kGroup = 4;                     // logits that a thread reads at once
inline constexpr int kTile = kWarpThreads * kGroup;  // logits that a warp reads at once
inline constexpr int kMaxGathered = 256;             // candidates that one block looks at alone
inline constexpr unsigned long long kBestOfNan = ~0ull;

// Unsigned integers that order as floats do, both zeros alike, and back.
__device__ inline uint32_t OrderOf(float logit) {
  const uint32_t bits = __float_as_uint(logit + 0.0f);
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}
__device__ inline float FloatOf(uint32_t order) {
  return __uint_as_float((order >> 31) != 0 ? order & 0x7fffffffu : ~order);
}

__device__ inline bool IsFinite(float value) { return fabsf(value) <= FLT_MAX; }

// Exceeds another's where the logit is larger, or equal and the token lower.
__device__ inline unsigned long long PackBest(float logit, int32_t token) {
  if (logit != logit) return kBestOfNan;
  return static_cast<unsigned long long>(OrderOf(logit)) << 32 | ~static_cast<uint32_t>(token);
}
__device__ inline float LogitOf(unsigned long long best) { return FloatOf(static_cast<uint32_t>(best >> 32)); }
__device__ inline int32_t TokenOf(unsigned long long best) {
  return static_cast<int32_t>(~static_cast<uint32_t>(best));
}

__device__ inline LogitSoundness SoundnessOf(unsigned long long best) {
  if (best == kBestOfNan) return LogitSoundness::kNan;
  const float largest = LogitOf(best);
  if (IsFinite(largest)) return LogitSoundness::kSound;
  return largest > 0 ? LogitSoundness::kInfinite : LogitSoundness::kNoneFinite;
}

__device__ inline float MaxOrNan(float a, float b) {
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
}

// exp((logit - largest) / temperature).
struct Softmax {
  float largest;
  float scale_high, scale_low;  // log2(e) / temperature
  double temperature;

  __device__ Softmax(float largest_logit, double at_temperature) : largest(largest_logit), temperature(at_temperature) {
    const double scale = 1.4426950408889634 / at_temperature;
    scale_high = static_cast<float>(scale);
    scale_low = static_cast<float>(scale - scale_high);
  }
  // The product's rounding error is put back: beside an exponent of 20 it would show in the sixth digit.
  __device__ float Weight(float logit) const {
    constexpr float kLog2 = 0.6931471805599453f, kLeastExponent = -126;
    const float distance = logit - largest, exponent = distance * scale_high;
    const float error = fmaf(distance, scale_low, fmaf(distance, scale_high, -exponent));
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(exponent));
    return exponent < kLeastExponent ? 0.0f : fmaf(power, error * kLog2, power);
  }
  __device__ double ExactWeight(float logit) const {
    return exp((static_cast<double>(logit) - static_cast<double>(largest)) / temperature);
  }
};

// Keeps larger logits, and of equal ones the tokens up to `last_token`.
struct Cut {
  float logit = -FLT_MAX;
  int32_t last_token = INT_MAX;
  __device__ bool Keeps(float x, int32_t token) const {
    return (x > logit) | ((x == logit) & (token <= last_token));  // no branch
  }
};

// Where a search for a cut stands: what lies at or above `low` reaches the target, what lies at or above `high` not.
struct Bracket {
  float low, high;
  uint32_t count_low, count_high;
  double mass_high;

  __device__ bool gatherable() const { return count_low <= kMaxGathered; }
  __device__ bool gatherable_between() const { return count_low - count_high <= kMaxGathered; }
};

// A block's part of a row, in the order of tokens; NaN fills up the last tiles.
struct Slice {
  float* logits;
  int32_t first_token;
  int32_t size;
  int warp_begin, warp_end;  // of the calling warp's piece: whole tiles
  int lane;

  // Starts bringing the warp's piece of `row` into the cache.
  __device__ void Prefetch(const float* row, int64_t vocab_size) const {
    constexpr int kLine = 32;
    for (int place = warp_begin + lane * kLine; place < warp_end; place += kLine * kWarpThreads) {
      if (first_token + int64_t{place} >= vocab_size) return;
      asm volatile("prefetch.global.L2 [%0];" ::"l"(row + first_token + place));
    }
  }
  // Calls body(x, i) with the logits x[kGroup] from place i on, i ascending; all lanes of a warp together.
  template <typename Body>
  __device__ void ForEachGroup(const Body& body) const {
#pragma unroll 2
    for (int tile = warp_begin; tile < warp_end; tile += kTile) {
      const int place = tile + lane * kGroup;
      const float4 four = *reinterpret_cast<const float4*>(logits + place);
      const float x[kGroup] = {four.x, four.y, four.z, four.w};
      body(x, place);
    }
  }
  __device__ unsigned long long Best() const {
    unsigned long long best = 0;
    ForEachGroup([&](const float(&x)[kGroup], int place) {
#pragma unroll
      for (int i = 0; i < kGroup; ++i) {
        if (x[i] != x[i]) continue;  // beyond the vocabulary
        const unsigned long long packed = PackBest(x[i], first_token + place + i);
        best = packed > best ? packed : best;
      }
    });
    return WarpMax(best);
  }
};

// The warp's likeliest token of `row`, read once; copied into the slice where it is kept.
template <bool kKeep>
__device__ unsigned long long ReadPiece(const float* row, int64_t vocab_size, const Slice& slice) {
  constexpr int kAtOnce = 8;
  constexpr float kNan = __builtin_nanf("");
  float best = -INFINITY, group[kGroup] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
  int32_t best_place = slice.warp_begin + slice.lane * kGroup;
  const auto take = [&](const float4& four, int place) {
    if constexpr (kKeep) *reinterpret_cast<float4*>(slice.logits + place) = four;
    const float largest = MaxOrNan(MaxOrNan(four.x, four.y), MaxOrNan(four.z, four.w));
    if (largest > best) {
      best_place = place;
      group[0] = four.x, group[1] = four.y, group[2] = four.z, group[3] = four.w;
    }
    best = MaxOrNan(best, largest);
  };
  const float* const source = row + slice.first_token;
  const int64_t available = vocab_size - slice.first_token;
  const bool aligned = (reinterpret_cast<uintptr_t>(source) & 15) == 0;
  int tile = slice.warp_begin;
  const int64_t whole = !aligned ? 0 : available < slice.warp_end ? available : slice.warp_end;
  for (; tile + kAtOnce * kTile <= whole; tile += kAtOnce * kTile) {
    float4 fours[kAtOnce];
    const int place = tile + slice.lane * kGroup;
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) fours[i] = __ldcs(reinterpret_cast<const float4*>(source + place + i * kTile));
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) take(fours[i], place + i * kTile);
  }
  for (; tile < slice.warp_end; tile += kTile) {
    const int place = tile + slice.lane * kGroup;
    float x[kGroup];
#pragma unroll
    for (int i = 0; i < kGroup; ++i) x[i] = place + i < available ? source[place + i] : kNan;
    if constexpr (kKeep) *reinterpret_cast<float4*>(slice.logits + place) = make_float4(x[0], x[1], x[2], x[3]);
    for (int i = 0; i < kGroup && place + i < available; ++i) {
      if (x[i] > best) {
        best_place = place;
#pragma unroll
        for (int j = 0; j < kGroup; ++j) group[j] = x[j];
      }
      best = MaxOrNan(best, x[i]);
    }
  }
  int32_t token = slice.first_token + best_place;
#pragma unroll
  for (int i = kGroup - 1; i >= 0; --i) {
    if (group[i] == best) token = slice.first_token + best_place + i;
  }
  return WarpMax(PackBest(best, token));
}

// As farspan::TokenCounts::ApplyPenalties, each operation rounded as there.
__device__ inline float Penalised(float logit, int32_t in_output, const DrawRow& row) {
  if (!IsFinite(logit)) return logit;
  double value = logit;
  value = value > 0 ? __ddiv_rn(value, row.repetition_penalty) : __dmul_rn(value, row.repetition_penalty);
  if (in_output > 0) {
    value = __dsub_rn(value, __dadd_rn(__dmul_rn(in_output, row.frequency_penalty), row.presence_penalty));
  }
  constexpr double kLargest = FLT_MAX;
  return static_cast<float>(value < -kLargest ? -kLargest : value > kLargest ? kLargest : value);
}

}  // namespace farspan::kernels::cuda
