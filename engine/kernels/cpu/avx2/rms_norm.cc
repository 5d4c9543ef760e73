// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "engine/kernels/cpu/avx2/kernels.h"
#include "engine/kernels/cpu/avx2/simd.h"
#include "engine/kernels/cpu/row_tasks.h"

namespace farspan::kernels::avx2 {
namespace {

int64_t NumTasks(const RmsNormArgs& args) { return NumRowTasks(args.num_rows, args.width); }

double SumOfSquares(const float* x, int64_t width) {
  __m256d even = _mm256_setzero_pd(), odd = _mm256_setzero_pd();
  for (int64_t i = 0; i < width; i += kLanes) {
    const __m256 values = i + kLanes <= width ? _mm256_loadu_ps(x + i) : LoadFirst(x + i, width - i);
    const __m256d low = _mm256_cvtps_pd(_mm256_castps256_ps128(values));
    const __m256d high = _mm256_cvtps_pd(_mm256_extractf128_ps(values, 1));
    even = _mm256_fmadd_pd(low, low, even);
    odd = _mm256_fmadd_pd(high, high, odd);
  }
  double lanes[4];
  _mm256_storeu_pd(lanes, _mm256_add_pd(even, odd));
  return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
}

void Run(const RmsNormArgs& args, int64_t task, void*) {
  const RowSpan rows = RowsOfTask(task, args.num_rows, args.width);
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const float* x = args.x + (args.rows == nullptr ? row : args.rows[row]) * args.width;
    float* out = args.out + row * args.width;
    const double mean = SumOfSquares(x, args.width) / static_cast<double>(args.width);
    const float inverse = static_cast<float>(1.0 / std::sqrt(mean + static_cast<double>(args.epsilon)));
    int64_t i = 0;
    for (; i + kLanes <= args.width; i += kLanes) {
      const __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(x + i), _mm256_set1_ps(inverse));
      _mm256_storeu_ps(out + i, _mm256_mul_ps(scaled, _mm256_loadu_ps(args.weight + i)));
    }
    for (; i < args.width; ++i) out[i] = x[i] * inverse * args.weight[i];
  }
}

}  // namespace

constinit const KernelOp<RmsNormArgs> kRmsNorm = {NumTasks, NoScratch, Run};

}  // namespace farspan::kernels::avx2
