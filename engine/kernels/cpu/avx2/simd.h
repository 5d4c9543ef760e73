// SPDX-License-Identifier: Apache-2.0
// Eight-lane float arithmetic shared by the AVX2 ops. Internal linkage on purpose: nothing compiled with AVX2 may be
// merged with a copy that other translation units use.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <limits>

#include "engine/kernels/cpu/number_formats.h"

// Before a loop over the few elements of an array of vectors: unless it is unrolled, the array lives in memory.
#if defined(__clang__)
#define FARSPAN_UNROLL _Pragma("unroll")
#else
#define FARSPAN_UNROLL _Pragma("GCC unroll 16")
#endif

namespace farspan::kernels::avx2 {

static constexpr int64_t kLanes = 8;

static inline int64_t RoundUpToLanes(int64_t size) { return (size + kLanes - 1) / kLanes * kLanes; }

// All bits set in lanes i with begin <= i < end.
static inline __m256i LaneMask(int64_t begin, int64_t end) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const int clamped_begin = static_cast<int>(begin < 0 ? 0 : (begin > kLanes ? kLanes : begin));
  const int clamped_end = static_cast<int>(end < 0 ? 0 : (end > kLanes ? kLanes : end));
  const __m256i from = _mm256_cmpgt_epi32(lane, _mm256_set1_epi32(clamped_begin - 1));
  return _mm256_and_si256(from, _mm256_cmpgt_epi32(_mm256_set1_epi32(clamped_end), lane));
}

// The first `count` floats, zeros beyond; reads nothing beyond.
static inline __m256 LoadFirst(const float* values, int64_t count) {
  return _mm256_maskload_ps(values, LaneMask(0, count));
}

static inline __m256 WidenBf16(const uint16_t* values) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(values));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

// Elements of weights, uint16_t being bf16, and of a KV cache.
static inline __m256 LoadLanes(const float* values) { return _mm256_loadu_ps(values); }
static inline __m256 LoadLanes(const uint16_t* values) { return WidenBf16(values); }
static inline __m256 LoadLanes(const Bf16* values) { return WidenBf16(&values->bits); }
static inline __m256 LoadLanes(const Half* values) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(values)));
}
// As Fp8ToFloat: a float16 whose exponent is biased by 8 more.
static inline __m256 LoadLanes(const Fp8* values) {
  const __m128i bytes = _mm_cvtepu8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(values)));
  const __m128i magnitude = _mm_and_si128(bytes, _mm_set1_epi16(0x7f));
  const __m128i sign = _mm_slli_epi16(_mm_andnot_si128(_mm_set1_epi16(0x7f), bytes), 8);
  const __m128i is_nan = _mm_cmpeq_epi16(magnitude, _mm_set1_epi16(0x7f));
  const __m128i half = _mm_or_si128(_mm_slli_epi16(magnitude, 7), sign);
  const __m128i kept = _mm_blendv_epi8(half, _mm_or_si128(sign, _mm_set1_epi16(0x7e00)), is_nan);
  return _mm256_mul_ps(_mm256_cvtph_ps(kept), _mm256_set1_ps(256.0f));
}

// ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)) of each of four vectors: the one order in which lanes are ever added.
static inline __m128 SumLanes4(__m256 a, __m256 b, __m256 c, __m256 d) {
  const __m256 sums = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
  return _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1));
}

static inline float SumLanes(__m256 a) { return _mm_cvtss_f32(SumLanes4(a, a, a, a)); }

static inline float MaxLanes(__m256 a) {
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

// e^x within about one unit in the last place; 0 below -87.3 (where the result would be subnormal), infinity
// above 88.3.
static inline __m256 Exp(__m256 x) {
  const __m256 n =
      _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  // ln 2 in two parts, the first with so few bits that n times it is exact.
  __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
  r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
  // e^r = 1 + r + r^2 q(r) on |r| <= ln(2) / 2; q is the minimax polynomial of degree 4, error 3e-9.
  __m256 q = _mm256_set1_ps(0x1.6a2438p-10f);
  q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(0x1.1239e2p-7f));
  q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(0x1.5558f2p-5f));
  q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(0x1.555492p-3f));
  q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(0x1.fffffcp-2f));
  const __m256 fraction = _mm256_add_ps(_mm256_fmadd_ps(_mm256_mul_ps(r, r), q, r), _mm256_set1_ps(1.0f));
  const __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
  __m256 result = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(fraction), exponent));
  const __m256 too_small = _mm256_cmp_ps(x, _mm256_set1_ps(-87.3f), _CMP_LT_OQ);
  const __m256 too_large = _mm256_cmp_ps(x, _mm256_set1_ps(88.3f), _CMP_GT_OQ);
  result = _mm256_andnot_ps(too_small, result);
  return _mm256_blendv_ps(result, _mm256_set1_ps(std::numeric_limits<float>::infinity()), too_large);
}

static inline float Exp(float x) { return _mm256_cvtss_f32(Exp(_mm256_set1_ps(x))); }

}  // namespace farspan::kernels::avx2
