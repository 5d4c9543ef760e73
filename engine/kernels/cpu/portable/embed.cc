// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/cpu/portable/kernels.h"
#include "engine/kernels/cpu/row_tasks.h"

namespace farspan::kernels::portable {
namespace {

int64_t NumTasks(const EmbedArgs& args) { return NumRowTasks(args.num_rows, args.table.columns); }

void Run(const EmbedArgs& args, int64_t task, void*) {
  const RowSpan rows = RowsOfTask(task, args.num_rows, args.table.columns);
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    DequantizeRow(args.table, TokenIdOf(args, row), args.out + row * args.table.columns);
  }
}

}  // namespace

constinit const KernelOp<EmbedArgs> kEmbed = {NumTasks, NoScratch, Run};

}  // namespace farspan::kernels::portable
