// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/cpu/avx512/kernels.h"
#include "engine/kernels/cpu/avx512/packed_rows.h"
#include "engine/kernels/cpu/avx512/simd.h"
#include "engine/kernels/cpu/row_tasks.h"

namespace farspan::kernels::avx512 {
namespace {

int64_t NumTasks(const PackRowsArgs& args) { return NumRowTasks(args.num_rows, args.columns); }

// Sixteen-bit integers of 32 values, and what undoes them.
void PackBlock(const float* x, int16_t* out, float* scale, float* scaled_sum, int32_t* sum) {
  constexpr float kLargest = 32767;
  const __m512 low = _mm512_loadu_ps(x), high = _mm512_loadu_ps(x + kLanes);
  const float largest = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(low), _mm512_abs_ps(high)));
  const bool finite = !AnyNan(_mm512_sub_ps(low, low)) && !AnyNan(_mm512_sub_ps(high, high));
  const __m512 inverse = _mm512_set1_ps(largest > 0 && finite ? kLargest / largest : 0.0f);
  const __m512i low_levels = _mm512_cvtps_epi32(_mm512_mul_ps(low, inverse));
  const __m512i high_levels = _mm512_cvtps_epi32(_mm512_mul_ps(high, inverse));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm512_cvtsepi32_epi16(low_levels));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + kLanes), _mm512_cvtsepi32_epi16(high_levels));
  *sum = _mm512_reduce_add_epi32(_mm512_add_epi32(low_levels, high_levels));
  *scale = finite ? largest / kLargest : std::numeric_limits<float>::quiet_NaN();
  *scaled_sum = *scale * static_cast<float>(*sum);
}

void Run(const PackRowsArgs& args, int64_t task, void*) {
  const RowSpan rows = RowsOfTask(task, args.num_rows, args.columns);
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const PackedRow packed = PackedRowAt(args.packed, row, args.columns);
    for (int64_t block = 0; block < args.columns / kQuantBlock; ++block) {
      PackBlock(args.x + row * args.columns + block * kQuantBlock, packed.levels + block * kQuantBlock,
                packed.scales + block, packed.scaled_sums + block, packed.sums + block);
    }
  }
}

}  // namespace

constinit const KernelOp<PackRowsArgs> kPackRows = {NumTasks, NoScratch, Run};

}  // namespace farspan::kernels::avx512
