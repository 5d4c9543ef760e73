// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/cpu/attention_walk.h"
#include "engine/kernels/cpu/portable/kernels.h"
#include "engine/kernels/cpu/portable/softmax_walk.h"

namespace farspan::kernels::portable {
namespace {

int64_t NumTasks(const PrefillAttentionArgs& args) { return args.num_tiles * args.common.num_heads; }

int64_t ScratchBytes(const PrefillAttentionArgs& args) { return WalkScratchBytes(args.common); }

void Run(const PrefillAttentionArgs& args, int64_t task, void* scratch) {
  const AttentionCommon& common = args.common;
  const PrefillTile& tile = args.tiles[task / common.num_heads];
  const int64_t head = task % common.num_heads, head_dim = common.cache.head_dim;
  const int64_t group = common.num_heads / common.cache.num_kv_heads;
  for (int64_t query = 0; query < tile.num_queries; ++query) {
    const int64_t row = tile.row + query, index = row * common.num_heads + head;
    QueryWalk walk = {
        .common = &common,
        .entries = nullptr,
        .num_entries = 0,
        .kv_head = head / group,
        .head_in_group = head % group,
        .row = row,
        .position = tile.first_position + query,
        .left_window = tile.left_window,
        .q = common.q_f32() + index * head_dim,
    };
    SoftmaxState state = {.maximum = 0, .denominator = 0, .out = common.out_f32() + index * head_dim};
    ResetState(head_dim, &state);
    ForEachKeptPart(args, task, [&](const KvList& part) {
      walk.entries = common.entries + part.entries_begin;
      walk.num_entries = part.num_entries;
      FoldEntries(walk, scratch, &state);
    });
    FinishState(state, head_dim, state.out, common.lse == nullptr ? nullptr : common.lse + index);
  }
}

}  // namespace

constinit const KernelOp<PrefillAttentionArgs> kPrefillAttention = {NumTasks, ScratchBytes, Run};

}  // namespace farspan::kernels::portable
