// SPDX-License-Identifier: Apache-2.0
// What decode and prefill attention share on AVX2: one softmax update from a row of scores, and the register tiles of
// P V. Internal linkage, as everything that AVX2 flags compile.
#pragma once

#include <cmath>
#include <cstdint>

#include "engine/kernels/cpu/attention_walk.h"
#include "engine/kernels/cpu/avx2/simd.h"

namespace farspan::kernels::avx2 {

static constexpr float kNegativeInfinity = -std::numeric_limits<float>::infinity();

// The running softmax of one query head, without its output.
struct SoftmaxSums {
  float maximum = kNegativeInfinity;
  float denominator = 0;
};

// Turns the scores of a page's tokens (-infinity where unseen; padded to whole vectors) into weights relative to the
// new maximum, and returns the factor by which the output so far shrinks. A page in which nothing is seen gives
// weights of zero and a factor of one; one with a NaN gives NaNs.
static inline float UpdateSoftmax(float* scores, int64_t padded_tokens, SoftmaxSums* sums) {
  __m256 maxima = _mm256_loadu_ps(scores);
  __m256 nans = _mm256_cmp_ps(maxima, maxima, _CMP_UNORD_Q);
  for (int64_t i = kLanes; i < padded_tokens; i += kLanes) {
    const __m256 next = _mm256_loadu_ps(scores + i);
    nans = _mm256_or_ps(nans, _mm256_cmp_ps(next, next, _CMP_UNORD_Q));
    maxima = _mm256_max_ps(maxima, next);
  }
  const float page_maximum = MaxLanes(maxima);
  if (page_maximum == kNegativeInfinity && _mm256_movemask_ps(nans) == 0) {
    for (int64_t i = 0; i < padded_tokens; i += kLanes) _mm256_storeu_ps(scores + i, _mm256_setzero_ps());
    return 1.0f;
  }
  const float maximum = page_maximum > sums->maximum ? page_maximum : sums->maximum;
  const float decay = maximum == sums->maximum ? 1.0f : Exp(sums->maximum - maximum);
  __m256 total = _mm256_setzero_ps();
  for (int64_t i = 0; i < padded_tokens; i += kLanes) {
    const __m256 weights = Exp(_mm256_sub_ps(_mm256_loadu_ps(scores + i), _mm256_set1_ps(maximum)));
    _mm256_storeu_ps(scores + i, weights);
    total = _mm256_add_ps(total, weights);
  }
  sums->maximum = maximum;
  sums->denominator = sums->denominator * decay + SumLanes(total);
  return decay;
}

// out[q][d] += weights[q][token] * values[token][d] for tokens in [span.begin, span.end) in ascending order and
// kVectors * 8 channels; `weights` rows are weight_stride apart, `out` rows out_stride, `values` rows head_dim.
template <int kQueries, int kVectors, typename Element>
static inline void AddValues(const float* weights, int64_t weight_stride, const Element* values, int64_t head_dim,
                             TokenSpan span, float* out, int64_t out_stride) {
  __m256 sums[kQueries][kVectors];
  FARSPAN_UNROLL
  for (int q = 0; q < kQueries; ++q) {
    FARSPAN_UNROLL
    for (int v = 0; v < kVectors; ++v) sums[q][v] = _mm256_loadu_ps(out + q * out_stride + v * kLanes);
  }
  for (int64_t token = span.begin; token < span.end; ++token) {
    __m256 weight[kQueries];
    FARSPAN_UNROLL
    for (int q = 0; q < kQueries; ++q) weight[q] = _mm256_broadcast_ss(weights + q * weight_stride + token);
    FARSPAN_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const __m256 value = LoadLanes(values + token * head_dim + v * kLanes);
      FARSPAN_UNROLL
      for (int q = 0; q < kQueries; ++q) sums[q][v] = _mm256_fmadd_ps(weight[q], value, sums[q][v]);
    }
  }
  FARSPAN_UNROLL
  for (int q = 0; q < kQueries; ++q) {
    FARSPAN_UNROLL
    for (int v = 0; v < kVectors; ++v) _mm256_storeu_ps(out + q * out_stride + v * kLanes, sums[q][v]);
  }
}

template <int kQueries, typename Element>
static inline void AddValuesAllChannels(const float* weights, int64_t weight_stride, const Element* values,
                                        int64_t head_dim, TokenSpan span, float* out, int64_t out_stride) {
  int64_t d = 0;
  for (; d + 4 * kLanes <= head_dim; d += 4 * kLanes) {
    AddValues<kQueries, 4>(weights, weight_stride, values + d, head_dim, span, out + d, out_stride);
  }
  for (; d < head_dim; d += kLanes) {
    AddValues<kQueries, 1>(weights, weight_stride, values + d, head_dim, span, out + d, out_stride);
  }
}

static inline void ScaleVector(float* values, int64_t size, float factor) {
  if (factor == 1.0f) return;
  for (int64_t i = 0; i < size; i += kLanes) {
    _mm256_storeu_ps(values + i, _mm256_mul_ps(_mm256_loadu_ps(values + i), _mm256_set1_ps(factor)));
  }
}

// out = state / denominator and *lse (skipped where null): zero and -infinity where nothing was seen. Adding zero makes
// negative zeros positive: a weight of zero may have flipped the sign of one, and equal results shall be equal bits.
static inline void FinishHead(const SoftmaxSums& sums, const float* state, int64_t head_dim, float* out, float* lse) {
  const float inverse = sums.denominator > 0 ? 1.0f / sums.denominator : 0.0f;
  for (int64_t i = 0; i < head_dim; i += kLanes) {
    const __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(state + i), _mm256_set1_ps(inverse));
    _mm256_storeu_ps(out + i, _mm256_add_ps(scaled, _mm256_setzero_ps()));
  }
  if (lse != nullptr) *lse = sums.maximum + std::log(sums.denominator);
}

}  // namespace farspan::kernels::avx2
