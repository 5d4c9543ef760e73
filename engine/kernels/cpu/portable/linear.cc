// SPDX-License-Identifier: Apache-2.0
// Each task widens a few weight rows to float32 and multiplies every row of x by them.
#include "engine/kernels/cpu/portable/kernels.h"
#include "engine/kernels/cpu/portable/lane_dot.h"
#include "engine/kernels/cpu/row_tasks.h"

namespace farspan::kernels::portable {
namespace {

constexpr int64_t kOutputsPerTask = 8;

int64_t NumTasks(const LinearArgs& args) { return (args.weight.rows + kOutputsPerTask - 1) / kOutputsPerTask; }

int64_t ScratchBytes(const LinearArgs& args) {
  return kOutputsPerTask * args.weight.columns * static_cast<int64_t>(sizeof(float));
}

void Run(const LinearArgs& args, int64_t task, void* scratch) {
  const int64_t columns = args.weight.columns;
  const int64_t begin = task * kOutputsPerTask;
  const int64_t end = begin + kOutputsPerTask < args.weight.rows ? begin + kOutputsPerTask : args.weight.rows;
  float* weights = static_cast<float*>(scratch);
  for (int64_t n = begin; n < end; ++n) DequantizeRow(args.weight, n, weights + (n - begin) * columns);
  for (int64_t row = 0; row < args.num_rows; ++row) {
    const float* x = args.x + row * columns;
    float* y = args.y + row * args.weight.rows;
    for (int64_t n = begin; n < end; ++n) {
      const float sum = LaneDot(x, weights + (n - begin) * columns, columns);
      y[n] = args.accumulate ? y[n] + sum : sum;
    }
  }
}

}  // namespace

constinit const KernelOp<LinearArgs> kLinear = {NumTasks, ScratchBytes, Run};

}  // namespace farspan::kernels::portable
