// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <limits>

#include "engine/kernels/cpu/portable/kernels.h"
#include "engine/kernels/cpu/portable/softmax_walk.h"
#include "engine/kernels/cpu/row_tasks.h"

namespace farspan::kernels::portable {
namespace {

int64_t NumTasks(const MergeStatesArgs& args) { return args.num_rows; }

// The states of one query head, `place` being its index among rows and heads.
void MergeHead(const MergeStatesArgs& args, int64_t place) {
  const int64_t num_places = args.num_rows * args.num_heads, head_dim = args.head_dim;
  float maximum = -std::numeric_limits<float>::infinity();
  for (int64_t i = 0; i < args.num_states; ++i) {
    maximum = std::fmax(maximum, args.states.maximum[i * num_places + place]);
  }
  float* const out = static_cast<float*>(args.out) + place * head_dim;
  for (int64_t c = 0; c < head_dim; ++c) out[c] = 0;
  SoftmaxState merged = {.maximum = maximum, .denominator = 0, .out = out};
  for (int64_t i = 0; i < args.num_states; ++i) {
    const int64_t state = i * num_places + place;
    if (args.states.sum[state] == 0) continue;
    const float weight = std::exp(args.states.maximum[state] - maximum);
    merged.denominator += weight * args.states.sum[state];
    for (int64_t c = 0; c < head_dim; ++c) out[c] += weight * args.states.out[state * head_dim + c];
  }
  FinishState(merged, head_dim, out, args.lse == nullptr ? nullptr : args.lse + place);
}

void Run(const MergeStatesArgs& args, int64_t task, void*) {
  for (int64_t head = 0; head < args.num_heads; ++head) MergeHead(args, task * args.num_heads + head);
}

}  // namespace

constinit const KernelOp<MergeStatesArgs> kMergeStates = {NumTasks, NoScratch, Run};

}  // namespace farspan::kernels::portable
