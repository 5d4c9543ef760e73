// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/cpu/avx2/kernels.h"
#include "engine/kernels/cpu/avx2/simd.h"
#include "engine/kernels/cpu/row_tasks.h"

namespace farspan::kernels::avx2 {
namespace {

int64_t NumTasks(const SiluMulArgs& args) { return NumRowTasks(args.num_rows, args.width); }

__m256 SiluMul(__m256 gate, __m256 up) {
  const __m256 one = _mm256_set1_ps(1.0f);
  const __m256 denominator = _mm256_add_ps(one, Exp(_mm256_sub_ps(_mm256_setzero_ps(), gate)));
  return _mm256_mul_ps(_mm256_div_ps(gate, denominator), up);
}

void Run(const SiluMulArgs& args, int64_t task, void*) {
  const RowSpan rows = RowsOfTask(task, args.num_rows, args.width);
  const int64_t end = rows.end * args.width;
  for (int64_t i = rows.begin * args.width; i < end; i += kLanes) {
    if (i + kLanes <= end) {
      _mm256_storeu_ps(args.gate + i, SiluMul(_mm256_loadu_ps(args.gate + i), _mm256_loadu_ps(args.up + i)));
    } else {
      const __m256 result = SiluMul(LoadFirst(args.gate + i, end - i), LoadFirst(args.up + i, end - i));
      _mm256_maskstore_ps(args.gate + i, LaneMask(0, end - i), result);
    }
  }
}

}  // namespace

constinit const KernelOp<SiluMulArgs> kSiluMul = {NumTasks, NoScratch, Run};

}  // namespace farspan::kernels::avx2
