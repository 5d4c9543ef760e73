// SPDX-License-Identifier: Apache-2.0
// From the scores of blocks to the list of one KV head. The lowest picked score is found byte by byte from a histogram:
// a fixed number of passes whatever the scores are.
#include "engine/kernels/cpu/avx2/kernels.h"
#include "engine/kernels/cpu/avx2/simd.h"
#include "engine/kernels/cpu/block_lists.h"
#include "engine/kernels/cpu/row_tasks.h"

namespace farspan::kernels::avx2 {
namespace {

constexpr float kNegativeInfinity = -std::numeric_limits<float>::infinity();

// Adds each head's softmax over the blocks to `total`; its first head may be `total` itself. Rows are padded.
void NormaliseInto(float* scores, int64_t num_blocks, float scale, bool first, float* total) {
  const int64_t padded = PaddedBlocks(num_blocks);
  for (int64_t i = num_blocks; i < padded; ++i) scores[i] = kNegativeInfinity;
  const __m256 factor = _mm256_set1_ps(scale);
  __m256 maxima = _mm256_set1_ps(kNegativeInfinity);
  for (int64_t i = 0; i < padded; i += kLanes) maxima = _mm256_max_ps(_mm256_loadu_ps(scores + i), maxima);
  const __m256 maximum = _mm256_set1_ps(MaxLanes(maxima));
  __m256 sums = _mm256_setzero_ps();
  for (int64_t i = 0; i < padded; i += kLanes) {
    const __m256 difference = _mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(scores + i), maximum), factor);
    const __m256 weights = Exp(difference);
    sums = _mm256_add_ps(sums, weights);
    _mm256_storeu_ps(scores + i, weights);
  }
  const __m256 inverse = _mm256_set1_ps(1.0f / SumLanes(sums));
  for (int64_t i = 0; i < padded; i += kLanes) {
    const __m256 share = _mm256_mul_ps(_mm256_loadu_ps(scores + i), inverse);
    _mm256_storeu_ps(total + i, first ? share : _mm256_add_ps(_mm256_loadu_ps(total + i), share));
  }
}

void Reduce(const SelectBlocksArgs& args, const SelectorRow& row, float* scores) {
  const int64_t stride = PaddedBlocks(row.num_blocks);
  for (int64_t head = 0; head < SelectionGroup(args); ++head) {
    if (row.reduction == ScoreReduction::kSoftmaxSum) {
      NormaliseInto(scores + head * stride, row.num_blocks, args.scale, head == 0, scores);
    } else if (head > 0) {
      for (int64_t i = 0; i < row.num_blocks; ++i) scores[i] += scores[head * stride + i];
    }
  }
}

// The lowest of the `count` highest orders, and how many of those that equal it are among them.
struct Threshold {
  uint32_t order;
  int64_t num_equal;
};

Threshold FindThreshold(const float* scores, int64_t num_blocks, int64_t count) {
  uint32_t prefix = 0, mask = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    int32_t histogram[256] = {};
    for (int64_t i = 0; i < num_blocks; ++i) {
      const uint32_t order = OrderOfScore(scores[i]);
      if ((order & mask) == prefix) ++histogram[order >> shift & 0xff];
    }
    int byte = 255;
    while (histogram[byte] < count) count -= histogram[byte--];
    prefix |= static_cast<uint32_t>(byte) << shift;
    mask |= 0xffu << shift;
  }
  return {prefix, count};
}

void RunPick(const SelectionPass& pass, int64_t task, void*) {
  const SelectBlocksArgs& args = *pass.args;
  const int64_t num_kv_heads = args.cache.num_kv_heads, kv_head = task % num_kv_heads;
  const SelectorRow& row = args.rows[task / num_kv_heads];
  if (IsDenseLayer(row, args.layer)) {
    *ListOf(args, row, kv_head) = row.context;
    return;
  }
  float* scores = pass.scores + pass.first_score[task];
  Reduce(args, row, scores);
  Threshold threshold = FindThreshold(scores, row.num_blocks, row.num_picked);
  ListCursor list = BeginList(args, row, kv_head);
  for (int64_t i = 0; i < row.num_blocks; ++i) {
    const uint32_t order = OrderOfScore(scores[i]);
    if (order > threshold.order || (order == threshold.order && threshold.num_equal-- > 0))
      AppendBlock(args, row, i, &list);
  }
  FinishList(args, row, kv_head, &list);
}

}  // namespace

constinit const KernelOp<SelectionPass> kPickBlocks = {NumPickTasks, NoScratch, RunPick};

}  // namespace farspan::kernels::avx2
