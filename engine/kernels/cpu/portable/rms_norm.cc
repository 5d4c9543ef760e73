// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "engine/kernels/cpu/portable/kernels.h"
#include "engine/kernels/cpu/row_tasks.h"

namespace farspan::kernels::portable {
namespace {

int64_t NumTasks(const RmsNormArgs& args) { return NumRowTasks(args.num_rows, args.width); }

void Run(const RmsNormArgs& args, int64_t task, void*) {
  const RowSpan rows = RowsOfTask(task, args.num_rows, args.width);
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const float* x = args.x + (args.rows == nullptr ? row : args.rows[row]) * args.width;
    float* out = args.out + row * args.width;
    double sum_of_squares = 0;
    for (int64_t i = 0; i < args.width; ++i) sum_of_squares += static_cast<double>(x[i]) * x[i];
    const double mean = sum_of_squares / static_cast<double>(args.width);
    const float inverse = static_cast<float>(1.0 / std::sqrt(mean + static_cast<double>(args.epsilon)));
    for (int64_t i = 0; i < args.width; ++i) out[i] = x[i] * inverse * args.weight[i];
  }
}

}  // namespace

constinit const KernelOp<RmsNormArgs> kRmsNorm = {NumTasks, NoScratch, Run};

}  // namespace farspan::kernels::portable
