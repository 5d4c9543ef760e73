// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <limits>

#include "engine/kernels/cpu/decode_walk.h"
#include "engine/kernels/cpu/portable/kernels.h"
#include "engine/kernels/cpu/portable/softmax_walk.h"
#include "engine/kernels/cpu/row_tasks.h"

namespace farspan::kernels::portable {
namespace {

int64_t NumPartialTasks(const DecodePass& pass) { return pass.num_splits; }

int64_t PartialScratchBytes(const DecodePass& pass) { return WalkScratchBytes(pass.args->common); }

void RunPartials(const DecodePass& pass, int64_t task, void* scratch) {
  const AttentionCommon& common = pass.args->common;
  const DecodeSplit& split = pass.splits[task];
  const DecodeRow& row = pass.args->rows[split.row_index];
  const int64_t group = DecodeGroup(common), head_dim = common.cache.head_dim;
  for (int64_t head = 0; head < group; ++head) {
    const QueryWalk walk = {
        .common = &common,
        .entries = common.entries + split.list.entries_begin,
        .num_entries = split.list.num_entries,
        .kv_head = split.kv_head,
        .head_in_group = head,
        .row = row.row,
        .position = row.position,
        .left_window = row.left_window,
        .q = common.q_f32() + (row.row * common.num_heads + split.kv_head * group + head) * head_dim,
    };
    float* partial = pass.partials + (task * group + head) * DecodePartialFloats(common);
    SoftmaxState state = {.maximum = 0, .denominator = 0, .out = partial};
    ResetState(head_dim, &state);
    FoldEntries(walk, scratch, &state);
    partial[head_dim] = state.maximum;
    partial[head_dim + 1] = state.denominator;
  }
}

int64_t NumMergeTasks(const DecodePass& pass) { return pass.args->num_rows; }

// Merges the partials [first, last) of one query head in list order.
void MergeHead(const DecodePass& pass, int64_t first, int64_t last, int64_t head, float* out, float* lse) {
  const AttentionCommon& common = pass.args->common;
  const int64_t head_dim = common.cache.head_dim, stride = DecodePartialFloats(common);
  const int64_t group = DecodeGroup(common);
  float maximum = -std::numeric_limits<float>::infinity();
  for (int64_t split = first; split < last; ++split) {
    maximum = std::fmax(maximum, pass.partials[(split * group + head) * stride + head_dim]);
  }
  SoftmaxState merged = {.maximum = maximum, .denominator = 0, .out = out};
  for (int64_t i = 0; i < head_dim; ++i) out[i] = 0;
  for (int64_t split = first; split < last; ++split) {
    const float* partial = pass.partials + (split * group + head) * stride;
    if (partial[head_dim + 1] == 0) continue;
    const float weight = std::exp(partial[head_dim] - maximum);
    merged.denominator += weight * partial[head_dim + 1];
    for (int64_t i = 0; i < head_dim; ++i) out[i] += weight * partial[i];
  }
  FinishState(merged, head_dim, out, lse);
}

void RunMerge(const DecodePass& pass, int64_t task, void*) {
  ForMergedHeads(pass, task, [&](int64_t first, int64_t last, int64_t head, float* out, float* lse) {
    MergeHead(pass, first, last, head, out, lse);
  });
}

}  // namespace

constinit const KernelOp<DecodePass> kDecodePartials = {NumPartialTasks, PartialScratchBytes, RunPartials};
constinit const KernelOp<DecodePass> kDecodeMerge = {NumMergeTasks, NoScratch, RunMerge};

}  // namespace farspan::kernels::portable
