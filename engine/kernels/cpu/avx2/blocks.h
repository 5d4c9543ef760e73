// SPDX-License-Identifier: Apache-2.0
// Quantised blocks widened to float32 in registers. Every product of a half scale and a quantised value is exact in
// float32, so these give the same values as the portable kernels, bit for bit.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "engine/kernels/args.h"
#include "engine/kernels/cpu/avx2/simd.h"
#include "engine/kernels/cpu/number_formats.h"

namespace farspan::kernels::avx2 {

// The 32 values of a block, in order.
struct BlockValues {
  __m256 v[4];
};

static inline __m256 WidenSignedBytes(const uint8_t* bytes) {
  const __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes));
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight));
}

// scale * q + min of 32 nibbles.
static inline BlockValues WidenNibbles(const uint8_t* nibbles, __m256 scale, __m256 min) {
  BlockValues values;
  for (int half = 0; half < 2; ++half) {
    const __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(nibbles + 8 * half));
    const __m256i bytes = _mm256_cvtepu8_epi32(eight);
    const __m256i low = _mm256_and_si256(bytes, _mm256_set1_epi32(0x0f)), high = _mm256_srli_epi32(bytes, 4);
    values.v[half] = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(low), min);
    values.v[2 + half] = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(high), min);
  }
  return values;
}

// kHalves is how many half floats open a block; Load takes them as float32, converted beforehand by LoadScales.
template <WeightType kType>
struct QuantBlock;

template <>
struct QuantBlock<WeightType::kQ4_0> {
  static constexpr int64_t kBytes = kQ40BlockBytes, kHalves = 1;
  static inline BlockValues Load(const uint8_t* block, const float* scale) {
    const __m256 scales = _mm256_broadcast_ss(scale);
    return WidenNibbles(block + 2, scales, _mm256_mul_ps(scales, _mm256_set1_ps(-8.0f)));
  }
};

template <>
struct QuantBlock<WeightType::kQ4_1> {
  static constexpr int64_t kBytes = kQ41BlockBytes, kHalves = 2;
  static inline BlockValues Load(const uint8_t* block, const float* scale_and_min) {
    return WidenNibbles(block + 4, _mm256_broadcast_ss(scale_and_min), _mm256_broadcast_ss(scale_and_min + 1));
  }
};

template <>
struct QuantBlock<WeightType::kQ8_0> {
  static constexpr int64_t kBytes = kQ80BlockBytes, kHalves = 1;
  static inline BlockValues Load(const uint8_t* block, const float* scale) {
    BlockValues values;
    FARSPAN_UNROLL
    for (int i = 0; i < 4; ++i) {
      values.v[i] = _mm256_mul_ps(_mm256_broadcast_ss(scale), WidenSignedBytes(block + 2 + 8 * i));
    }
    return values;
  }
};

// Room for the half floats of `num_blocks` blocks of any type.
static inline int64_t ScaleFloats(int64_t num_blocks) { return RoundUpToLanes(2 * num_blocks); }

// The half floats of consecutive blocks, in order: eight are converted at once, where a block alone would waste most of
// the conversion. `scales` holds ScaleFloats(num_blocks).
template <WeightType kType>
static inline void LoadScales(const uint8_t* blocks, int64_t num_blocks, float* scales) {
  constexpr int64_t kHalves = QuantBlock<kType>::kHalves;
  const int64_t num_halves = RoundUpToLanes(num_blocks * kHalves);
  uint16_t* halves = reinterpret_cast<uint16_t*>(scales + num_halves) - num_halves;
  for (int64_t block = 0; block < num_blocks; ++block) {
    std::memcpy(halves + block * kHalves, blocks + block * QuantBlock<kType>::kBytes, kHalves * sizeof(uint16_t));
  }
  // In place: the halves lie at the end, and each store ends before the next load begins.
  for (int64_t i = 0; i < num_halves; i += kLanes) {
    const __m128i eight = _mm_loadu_si128(reinterpret_cast<const __m128i*>(halves + i));
    _mm256_storeu_ps(scales + i, _mm256_cvtph_ps(eight));
  }
}

// out[i] = weight[row][i] for i < columns, zeros up to the next multiple of 8. `scales` holds
// ScaleFloats(columns / 32).
void DequantizeRow(const WeightView& weight, int64_t row, float* scales, float* out);

}  // namespace farspan::kernels::avx2
