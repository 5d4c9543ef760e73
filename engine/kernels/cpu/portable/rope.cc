// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "engine/kernels/cpu/portable/kernels.h"
#include "engine/kernels/cpu/row_tasks.h"

namespace farspan::kernels::portable {
namespace {

// A cosine and a sine cost about as much as this many plain elements.
constexpr int64_t kTrigonometryCost = 32;

int64_t TableElements(const RopeTableArgs& args) { return args.rope_dim / 2 * kTrigonometryCost; }

int64_t NumTableTasks(const RopeTableArgs& args) { return NumRowTasks(args.num_rows, TableElements(args)); }

void RunTable(const RopeTableArgs& args, int64_t task, void*) {
  const RowSpan rows = RowsOfTask(task, args.num_rows, TableElements(args));
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    float* out = args.cos_sin + row * args.rope_dim;
    for (int64_t i = 0; i < args.rope_dim / 2; ++i) {
      const double angle = static_cast<double>(args.positions[row]) * args.inverse_frequencies[i];
      out[2 * i] = static_cast<float>(std::cos(angle));
      out[2 * i + 1] = static_cast<float>(std::sin(angle));
    }
  }
}

int64_t NumTasks(const RopeArgs& args) { return NumRowTasks(args.num_rows, args.num_heads * args.head_dim); }

void Run(const RopeArgs& args, int64_t task, void*) {
  const RowSpan rows = RowsOfTask(task, args.num_rows, args.num_heads * args.head_dim);
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const float* cos_sin = args.cos_sin + row * args.rope_dim;
    for (int64_t head = 0; head < args.num_heads; ++head) {
      float* x = args.x + (row * args.num_heads + head) * args.head_dim;
      for (int64_t i = 0; i < args.rope_dim; i += 2) {
        const float even = x[i], odd = x[i + 1], cos = cos_sin[i], sin = cos_sin[i + 1];
        x[i] = even * cos - odd * sin;
        x[i + 1] = even * sin + odd * cos;
      }
    }
  }
}

}  // namespace

constinit const KernelOp<RopeTableArgs> kRopeTable = {NumTableTasks, NoScratch, RunTable};
constinit const KernelOp<RopeArgs> kRope = {NumTasks, NoScratch, Run};

}  // namespace farspan::kernels::portable
