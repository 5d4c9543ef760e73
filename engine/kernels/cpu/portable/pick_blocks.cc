// SPDX-License-Identifier: Apache-2.0
// From the scores of blocks to the list of one KV head.
#include <algorithm>
#include <cmath>

#include "engine/kernels/cpu/block_lists.h"
#include "engine/kernels/cpu/portable/kernels.h"

namespace farspan::kernels::portable {
namespace {

int64_t ScratchBytes(const SelectionPass& pass) {
  int64_t most_blocks = 0;
  for (int64_t i = 0; i < pass.args->num_rows; ++i) most_blocks = std::max(most_blocks, pass.args->rows[i].num_blocks);
  return most_blocks * static_cast<int64_t>(sizeof(int64_t));
}

// Each head's scores become its softmax over the blocks.
void Normalise(float* scores, int64_t num_blocks, float scale) {
  float maximum = -INFINITY, sum = 0;
  for (int64_t i = 0; i < num_blocks; ++i) maximum = std::fmax(maximum, scores[i] * scale);
  for (int64_t i = 0; i < num_blocks; ++i) {
    scores[i] = std::exp(scores[i] * scale - maximum);
    sum += scores[i];
  }
  for (int64_t i = 0; i < num_blocks; ++i) scores[i] /= sum;
}

void PickBlocks(const SelectionPass& pass, int64_t task, void* scratch) {
  const SelectBlocksArgs& args = *pass.args;
  const int64_t num_kv_heads = args.cache.num_kv_heads, kv_head = task % num_kv_heads;
  const SelectorRow& row = args.rows[task / num_kv_heads];
  if (IsDenseLayer(row, args.layer)) {
    *ListOf(args, row, kv_head) = row.context;
    return;
  }
  float* scores = pass.scores + pass.first_score[task];
  const int64_t stride = PaddedBlocks(row.num_blocks);
  for (int64_t head = 0; head < SelectionGroup(args); ++head) {
    float* own = scores + head * stride;
    if (row.reduction == ScoreReduction::kSoftmaxSum) Normalise(own, row.num_blocks, args.scale);
    for (int64_t i = 0; head > 0 && i < row.num_blocks; ++i) scores[i] += own[i];
  }
  int64_t* blocks = static_cast<int64_t*>(scratch);
  for (int64_t i = 0; i < row.num_blocks; ++i) blocks[i] = i;
  std::nth_element(blocks, blocks + row.num_picked - 1, blocks + row.num_blocks, [scores](int64_t a, int64_t b) {
    const uint32_t order_a = OrderOfScore(scores[a]), order_b = OrderOfScore(scores[b]);
    return order_a != order_b ? order_a > order_b : a < b;
  });
  std::sort(blocks, blocks + row.num_picked);
  ListCursor list = BeginList(args, row, kv_head);
  for (int64_t i = 0; i < row.num_picked; ++i) AppendBlock(args, row, blocks[i], &list);
  FinishList(args, row, kv_head, &list);
}

}  // namespace

constinit const KernelOp<SelectionPass> kPickBlocks = {NumPickTasks, ScratchBytes, PickBlocks};

}  // namespace farspan::kernels::portable
