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

// The partials [first, last) of one query head, merged in list order into `out`.
SoftmaxState MergeHead(const DecodePass& pass, int64_t first, int64_t last, int64_t head, float* out) {
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
  return merged;
}

void RunMerge(const DecodePass& pass, int64_t task, void*) {
  ForMergedHeads(pass, task, [&](int64_t first, int64_t last, int64_t head, float* out, float* lse) {
    FinishState(MergeHead(pass, first, last, head, out), pass.args->common.cache.head_dim, out, lse);
  });
}

void RunStates(const DecodePass& pass, int64_t task, void*) {
  const AttentionCommon& common = pass.args->common;
  const int64_t group = DecodeGroup(common), num_kv_heads = common.cache.num_kv_heads;
  for (int64_t i = 0; i < common.num_heads; ++i) {
    const int64_t index = pass.args->rows[task].row * common.num_heads + i;
    const int64_t* first_split = pass.first_split + task * num_kv_heads + i / group;
    float* const out = pass.states.out + index * common.cache.head_dim;
    const SoftmaxState merged = MergeHead(pass, first_split[0], first_split[1], i % group, out);
    pass.states.maximum[index] = merged.maximum;
    pass.states.sum[index] = merged.denominator;
    if (common.lse != nullptr) common.lse[index] = merged.maximum + std::log(merged.denominator);
  }
}

}  // namespace

constinit const KernelOp<DecodePass> kDecodePartials = {NumPartialTasks, PartialScratchBytes, RunPartials};
constinit const KernelOp<DecodePass> kDecodeMerge = {NumMergeTasks, NoScratch, RunMerge};
constinit const KernelOp<DecodePass> kDecodeStates = {NumMergeTasks, NoScratch, RunStates};

}  // namespace farspan::kernels::portable
