// SPDX-License-Identifier: Apache-2.0
// The dot product of the portable kernels: sixteen partial sums over k modulo 16, added pairwise. The lanes let any
// compiler vectorise it and keep the rounding error of long sums small.
#pragma once

#include <cstdint>

namespace farspan::kernels::portable {

inline float LaneDot(const float* a, const float* b, int64_t size) {
  constexpr int64_t kLanes = 16;
  float lanes[kLanes] = {};
  int64_t k = 0;
  for (; k + kLanes <= size; k += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += a[k + lane] * b[k + lane];
  }
  for (int64_t lane = 0; k + lane < size; ++lane) lanes[lane] += a[k + lane] * b[k + lane];
  for (int64_t width = kLanes / 2; width > 0; width /= 2) {
    for (int64_t lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  }
  return lanes[0];
}

}  // namespace farspan::kernels::portable
