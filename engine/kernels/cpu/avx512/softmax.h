// SPDX-License-Identifier: Apache-2.0
// One softmax update from a row of scores, shared by decode and prefill attention on AVX-512. Internal linkage, as
// everything that AVX-512 flags compile.
#pragma once

#include <cmath>
#include <cstdint>

#include "engine/kernels/cpu/avx512/simd.h"

namespace farspan::kernels::avx512 {

// The running softmax of one query head, without its output.
struct SoftmaxSums {
  float maximum = kNegativeInfinity;
  float denominator = 0;
};

// Turns the scores of a page's tokens (-infinity where unseen; padded to whole vectors) into weights relative to the
// new maximum, and returns the factor by which the output so far shrinks. A page in which nothing is seen gives
// weights of zero and a factor of one; one with a NaN gives NaNs.
static inline float UpdateSoftmax(float* scores, int64_t padded_tokens, SoftmaxSums* sums) {
  __m512 maxima = _mm512_loadu_ps(scores);
  bool any_nan = AnyNan(maxima);
  for (int64_t i = kLanes; i < padded_tokens; i += kLanes) {
    const __m512 next = _mm512_loadu_ps(scores + i);
    any_nan = any_nan || AnyNan(next);
    maxima = _mm512_max_ps(maxima, next);
  }
  const float page_maximum = _mm512_reduce_max_ps(maxima);
  if (page_maximum == kNegativeInfinity && !any_nan) {
    for (int64_t i = 0; i < padded_tokens; i += kLanes) _mm512_storeu_ps(scores + i, _mm512_setzero_ps());
    return 1.0f;
  }
  const float maximum = page_maximum > sums->maximum ? page_maximum : sums->maximum;
  const float decay = maximum == sums->maximum ? 1.0f : Exp(sums->maximum - maximum);
  __m512 total = _mm512_setzero_ps();
  for (int64_t i = 0; i < padded_tokens; i += kLanes) {
    const __m512 weights = Exp(_mm512_sub_ps(_mm512_loadu_ps(scores + i), _mm512_set1_ps(maximum)));
    _mm512_storeu_ps(scores + i, weights);
    total = _mm512_add_ps(total, weights);
  }
  sums->maximum = maximum;
  sums->denominator = sums->denominator * decay + _mm512_reduce_add_ps(total);
  return decay;
}

}  // namespace farspan::kernels::avx512
