// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/cpu/avx2/kernels.h"
#include "engine/kernels/cpu/avx2/simd.h"
#include "engine/kernels/cpu/row_tasks.h"

namespace farspan::kernels::avx2 {
namespace {

int64_t NumTasks(const RopeArgs& args) { return NumRowTasks(args.num_rows, args.num_heads * args.head_dim); }

// x[2i] * cos - x[2i + 1] * sin and x[2i + 1] * cos + x[2i] * sin, four pairs at a time.
void RotateHead(const float* cos_sin, int64_t rope_dim, float* x) {
  int64_t i = 0;
  for (; i + kLanes <= rope_dim; i += kLanes) {
    const __m256 values = _mm256_loadu_ps(x + i), table = _mm256_loadu_ps(cos_sin + i);
    const __m256 cosines = _mm256_moveldup_ps(table), sines = _mm256_movehdup_ps(table);
    const __m256 swapped = _mm256_permute_ps(values, _MM_SHUFFLE(2, 3, 0, 1));
    _mm256_storeu_ps(x + i, _mm256_addsub_ps(_mm256_mul_ps(values, cosines), _mm256_mul_ps(swapped, sines)));
  }
  for (; i < rope_dim; i += 2) {
    const float even = x[i], odd = x[i + 1], cos = cos_sin[i], sin = cos_sin[i + 1];
    x[i] = even * cos - odd * sin;
    x[i + 1] = odd * cos + even * sin;
  }
}

void Run(const RopeArgs& args, int64_t task, void*) {
  const RowSpan rows = RowsOfTask(task, args.num_rows, args.num_heads * args.head_dim);
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    for (int64_t head = 0; head < args.num_heads; ++head) {
      RotateHead(args.cos_sin + row * args.rope_dim, args.rope_dim,
                 args.x + (row * args.num_heads + head) * args.head_dim);
    }
  }
}

}  // namespace

constinit const KernelOp<RopeArgs> kRope = {NumTasks, NoScratch, Run};

}  // namespace farspan::kernels::avx2
