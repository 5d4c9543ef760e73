// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/cpu/avx2/blocks.h"
#include "engine/kernels/cpu/avx2/kernels.h"
#include "engine/kernels/cpu/row_tasks.h"

namespace farspan::kernels::avx2 {
namespace {

int64_t NumTasks(const EmbedArgs& args) { return NumRowTasks(args.num_rows, args.table.columns); }

// A widened row is padded to whole vectors, which `out` has no room for.
int64_t ScratchBytes(const EmbedArgs& args) {
  return (RoundUpToLanes(args.table.columns) + ScaleFloats(args.table.columns / kQuantBlock)) *
         static_cast<int64_t>(sizeof(float));
}

void Run(const EmbedArgs& args, int64_t task, void* scratch) {
  const RowSpan rows = RowsOfTask(task, args.num_rows, args.table.columns);
  float* values = static_cast<float*>(scratch);
  float* scales = values + RoundUpToLanes(args.table.columns);
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    DequantizeRow(args.table, TokenIdOf(args, row), scales, values);
    std::memcpy(args.out + row * args.table.columns, values, static_cast<size_t>(args.table.columns) * sizeof(float));
  }
}

}  // namespace

constinit const KernelOp<EmbedArgs> kEmbed = {NumTasks, ScratchBytes, Run};

}  // namespace farspan::kernels::avx2
