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

// The logarithm of the sum of exponentials of `count` scores, `stride` apart.
float LogSumExp(const float* scores, int64_t count, int64_t stride) {
  float maximum = -INFINITY, sum = 0;
  for (int64_t i = 0; i < count; ++i) maximum = std::fmax(maximum, scores[i * stride]);
  for (int64_t i = 0; i < count; ++i) sum += std::exp(scores[i * stride] - maximum);
  return maximum + std::log(sum);
}

// The scores of all heads become one, in the place of the first head's.
void Reduce(const SelectBlocksArgs& args, const SelectorRow& row, float* scores) {
  const int64_t group = SelectionGroup(args), stride = PaddedBlocks(row.num_blocks);
  if (row.reduction == ScoreReduction::kRawSum) {
    for (int64_t head = 1; head < group; ++head) {
      for (int64_t i = 0; i < row.num_blocks; ++i) scores[i] += scores[head * stride + i];
    }
    return;
  }
  for (int64_t head = 0; head < group; ++head) {
    const float total = LogSumExp(scores + head * stride, row.num_blocks, 1);
    for (int64_t i = 0; i < row.num_blocks; ++i) scores[head * stride + i] -= total;
  }
  for (int64_t i = 0; i < row.num_blocks; ++i) scores[i] = LogSumExp(scores + i, group, stride);
}

void PickBlocks(const SelectionPass& pass, int64_t task, void* scratch) {
  const SelectBlocksArgs& args = *pass.args;
  const int64_t num_kv_heads = args.cache.num_kv_heads, kv_head = task % num_kv_heads;
  const SelectorRow& row = args.rows[task / num_kv_heads];
  if (row.num_picked == 0) return;
  if (IsDenseLayer(row, args.layer)) {
    *ListOf(args, row, kv_head) = row.context;
    return;
  }
  float* scores = pass.scores + pass.first_score[task];
  Reduce(args, row, scores);
  int64_t* blocks = static_cast<int64_t*>(scratch);
  for (int64_t i = 0; i < row.num_candidates; ++i) blocks[i] = row.first_candidate + i;
  std::nth_element(blocks, blocks + row.num_picked - 1, blocks + row.num_candidates, [scores](int64_t a, int64_t b) {
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
