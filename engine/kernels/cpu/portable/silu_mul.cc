// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "engine/kernels/cpu/portable/kernels.h"
#include "engine/kernels/cpu/row_tasks.h"

namespace farspan::kernels::portable {
namespace {

int64_t NumTasks(const SiluMulArgs& args) { return NumRowTasks(args.num_rows, args.width); }

void Run(const SiluMulArgs& args, int64_t task, void*) {
  const RowSpan rows = RowsOfTask(task, args.num_rows, args.width);
  for (int64_t i = rows.begin * args.width; i < rows.end * args.width; ++i) {
    const float gate = args.gate[i];
    args.gate[i] = gate / (1.0f + std::exp(-gate)) * args.up[i];
  }
}

}  // namespace

constinit const KernelOp<SiluMulArgs> kSiluMul = {NumTasks, NoScratch, Run};

}  // namespace farspan::kernels::portable
