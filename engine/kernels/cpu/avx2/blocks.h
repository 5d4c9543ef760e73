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

static inline uint32_t LoadBits32(const uint8_t* bytes) {
  uint32_t bits;
  std::memcpy(&bits, bytes, sizeof(bits));
  return bits;
}

static inline __m256 BroadcastHalf(const uint8_t* bytes) {
  uint16_t bits;
  std::memcpy(&bits, bytes, sizeof(bits));
  return _mm256_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(bits)));
}

struct Nibbles {
  __m128i low;   // values 0 to 15
  __m128i high;  // values 16 to 31
};

static inline Nibbles SplitNibbles(const uint8_t* bytes) {
  const __m128i packed = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes));
  const __m128i mask = _mm_set1_epi8(0x0f);
  return {_mm_and_si128(packed, mask), _mm_and_si128(_mm_srli_epi16(packed, 4), mask)};
}

static inline __m256 WidenSigned(__m128i bytes) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)); }

template <WeightType kType>
struct QuantBlock;

template <>
struct QuantBlock<WeightType::kQ4_0> {
  static constexpr int64_t kBytes = kQ40BlockBytes;
  static inline BlockValues Load(const uint8_t* block) {
    const __m256 scale = BroadcastHalf(block);
    const Nibbles q = SplitNibbles(block + 2);
    const __m128i low = _mm_sub_epi8(q.low, _mm_set1_epi8(8)), high = _mm_sub_epi8(q.high, _mm_set1_epi8(8));
    return {{_mm256_mul_ps(scale, WidenSigned(low)), _mm256_mul_ps(scale, WidenSigned(_mm_srli_si128(low, 8))),
             _mm256_mul_ps(scale, WidenSigned(high)), _mm256_mul_ps(scale, WidenSigned(_mm_srli_si128(high, 8)))}};
  }
};

template <>
struct QuantBlock<WeightType::kQ4_1> {
  static constexpr int64_t kBytes = kQ41BlockBytes;
  static inline BlockValues Load(const uint8_t* block) {
    const __m128 scale_and_min = _mm_cvtph_ps(_mm_cvtsi32_si128(static_cast<int>(LoadBits32(block))));
    const __m256 scale = _mm256_broadcastss_ps(scale_and_min);
    const __m256 min = _mm256_broadcastss_ps(_mm_movehdup_ps(scale_and_min));
    const Nibbles q = SplitNibbles(block + 4);
    return {{_mm256_fmadd_ps(scale, WidenSigned(q.low), min),
             _mm256_fmadd_ps(scale, WidenSigned(_mm_srli_si128(q.low, 8)), min),
             _mm256_fmadd_ps(scale, WidenSigned(q.high), min),
             _mm256_fmadd_ps(scale, WidenSigned(_mm_srli_si128(q.high, 8)), min)}};
  }
};

template <>
struct QuantBlock<WeightType::kQ8_0> {
  static constexpr int64_t kBytes = kQ80BlockBytes;
  static inline BlockValues Load(const uint8_t* block) {
    const __m256 scale = BroadcastHalf(block);
    BlockValues values;
    for (int i = 0; i < 4; ++i) {
      const __m128i q = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(block + 2 + 8 * i));
      values.v[i] = _mm256_mul_ps(scale, WidenSigned(q));
    }
    return values;
  }
};

// out[i] = weight[row][i] for i < columns, zeros up to the next multiple of 8.
void DequantizeRow(const WeightView& weight, int64_t row, float* out);

}  // namespace farspan::kernels::avx2
