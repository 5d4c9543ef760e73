// SPDX-License-Identifier: Apache-2.0
// Sixteen-lane float arithmetic shared by the AVX-512 ops. Internal linkage on purpose: nothing compiled with AVX-512
// may be merged with a copy that other translation units use.
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

namespace farspan::kernels::avx512 {

static constexpr int64_t kLanes = 16;
static constexpr float kNegativeInfinity = -std::numeric_limits<float>::infinity();

static inline int64_t RoundUpToLanes(int64_t size) { return (size + kLanes - 1) / kLanes * kLanes; }

// Bits of lanes i with begin <= i < end.
static inline __mmask16 LaneMask(int64_t begin, int64_t end) {
  const int64_t first = begin < 0 ? 0 : (begin > kLanes ? kLanes : begin);
  const int64_t last = end < 0 ? 0 : (end > kLanes ? kLanes : end);
  if (first >= last) return 0;
  return static_cast<__mmask16>((1u << last) - (1u << first));
}

// The even and the odd ones of 32 bf16 values, widened: two operations where widening in order takes four.
static inline __m512 WidenEven(__m512i bf16) { return _mm512_castsi512_ps(_mm512_slli_epi32(bf16, 16)); }
static inline __m512 WidenOdd(__m512i bf16) {
  return _mm512_castsi512_ps(_mm512_and_si512(bf16, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}

// e^x within about one unit in the last place; 0 below -87.3 (where the result would be subnormal), infinity
// above 88.3. A NaN stays one.
static inline __m512 Exp(__m512 x) {
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)),
                                        _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  // ln 2 in two parts, the first with so few bits that n times it is exact.
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  // e^r = 1 + r + r^2 q(r) on |r| <= ln(2) / 2; q is the minimax polynomial of degree 4, error 3e-9.
  __m512 q = _mm512_set1_ps(0x1.6a2438p-10f);
  q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(0x1.1239e2p-7f));
  q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(0x1.5558f2p-5f));
  q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(0x1.555492p-3f));
  q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(0x1.fffffcp-2f));
  const __m512 fraction = _mm512_add_ps(_mm512_fmadd_ps(_mm512_mul_ps(r, r), q, r), _mm512_set1_ps(1.0f));
  const __mmask16 too_small = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.3f), _CMP_LT_OQ);
  const __mmask16 too_large = _mm512_cmp_ps_mask(x, _mm512_set1_ps(88.3f), _CMP_GT_OQ);
  __m512 result = _mm512_scalef_ps(fraction, n);
  result = _mm512_mask_mov_ps(result, too_small, _mm512_setzero_ps());
  return _mm512_mask_mov_ps(result, too_large, _mm512_set1_ps(std::numeric_limits<float>::infinity()));
}

static inline float Exp(float x) { return _mm512_cvtss_f32(Exp(_mm512_set1_ps(x))); }

static inline bool AnyNan(__m512 a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q) != 0; }

}  // namespace farspan::kernels::avx512
