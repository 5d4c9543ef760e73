// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/cpu/portable/kernels.h"
#include "engine/kernels/cpu/row_tasks.h"
#include "engine/kernels/random_block.h"

namespace farspan::kernels::portable {
namespace {

int64_t NumBlocks(const FillRandomArgs& args) { return (args.num_values + kRandomBlock - 1) / kRandomBlock; }

int64_t NumTasks(const FillRandomArgs& args) { return NumRowTasks(NumBlocks(args), kRandomBlock); }

template <RandomFormat kFormat>
void Fill(const FillRandomArgs& args, RowSpan blocks) {
  for (int64_t block = blocks.begin; block < blocks.end; ++block) FillRandomBlock<kFormat>(args, block);
}

void Run(const FillRandomArgs& args, int64_t task, void*) {
  const RowSpan blocks = RowsOfTask(task, NumBlocks(args), kRandomBlock);
  switch (args.format) {
    case RandomFormat::kF32:
      return Fill<RandomFormat::kF32>(args, blocks);
    case RandomFormat::kBf16:
      return Fill<RandomFormat::kBf16>(args, blocks);
    case RandomFormat::kF16:
      return Fill<RandomFormat::kF16>(args, blocks);
    case RandomFormat::kF8E4M3:
      return Fill<RandomFormat::kF8E4M3>(args, blocks);
    case RandomFormat::kQ4_0:
      return Fill<RandomFormat::kQ4_0>(args, blocks);
    case RandomFormat::kQ8_0:
      return Fill<RandomFormat::kQ8_0>(args, blocks);
  }
}

}  // namespace

constinit const KernelOp<FillRandomArgs> kFillRandom = {NumTasks, NoScratch, Run};

}  // namespace farspan::kernels::portable
