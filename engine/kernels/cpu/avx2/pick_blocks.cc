// SPDX-License-Identifier: Apache-2.0
// From the scores of blocks to the list of one KV head. The lowest picked score is found byte by byte from a histogram:
// a fixed number of passes whatever the scores are.
#include <cmath>

#include "engine/kernels/cpu/avx2/kernels.h"
#include "engine/kernels/cpu/avx2/simd.h"
#include "engine/kernels/cpu/block_lists.h"
#include "engine/kernels/cpu/row_tasks.h"

namespace farspan::kernels::avx2 {
namespace {

constexpr float kNegativeInfinity = -std::numeric_limits<float>::infinity();
constexpr int64_t kMaxGroup = 32;

// The natural logarithm of x in [1, 64], within 2e-7: ln m = 2 artanh((m - 1) / (m + 1)) of the mantissa m in
// [0.7, 1.5).
inline __m256 Log(__m256 x) {
  const __m256i bits = _mm256_sub_epi32(_mm256_castps_si256(x), _mm256_set1_epi32(0x3f400000));  // of 0.75
  const __m256 exponent = _mm256_cvtepi32_ps(_mm256_srai_epi32(bits, 23));
  const __m256i mantissa_bits = _mm256_and_si256(bits, _mm256_set1_epi32(0x007fffff));
  const __m256 m = _mm256_castsi256_ps(_mm256_add_epi32(mantissa_bits, _mm256_set1_epi32(0x3f400000)));
  const __m256 one = _mm256_set1_ps(1.0f);
  const __m256 z = _mm256_div_ps(_mm256_sub_ps(m, one), _mm256_add_ps(m, one));
  const __m256 z2 = _mm256_mul_ps(z, z);
  __m256 series = _mm256_set1_ps(2.0f / 9);
  series = _mm256_fmadd_ps(series, z2, _mm256_set1_ps(2.0f / 7));
  series = _mm256_fmadd_ps(series, z2, _mm256_set1_ps(2.0f / 5));
  series = _mm256_fmadd_ps(series, z2, _mm256_set1_ps(2.0f / 3));
  series = _mm256_fmadd_ps(series, z2, _mm256_set1_ps(2.0f));
  return _mm256_fmadd_ps(exponent, _mm256_set1_ps(0.693147181f), _mm256_mul_ps(series, z));
}

// The logarithm of the sum of exponentials over the blocks. Fills the padding with -infinity.
float LogSumExp(float* scores, int64_t num_blocks) {
  const int64_t padded = PaddedBlocks(num_blocks);
  for (int64_t i = num_blocks; i < padded; ++i) scores[i] = kNegativeInfinity;
  __m256 maxima = _mm256_set1_ps(kNegativeInfinity);
  for (int64_t i = 0; i < padded; i += kLanes) maxima = _mm256_max_ps(_mm256_loadu_ps(scores + i), maxima);
  const float maximum = MaxLanes(maxima);
  __m256 sums = _mm256_setzero_ps();
  for (int64_t i = 0; i < padded; i += kLanes) {
    sums = _mm256_add_ps(sums, Exp(_mm256_sub_ps(_mm256_loadu_ps(scores + i), _mm256_set1_ps(maximum))));
  }
  return maximum + std::log(SumLanes(sums));
}

// The logarithm of the sum over heads of their softmax over the blocks, in the place of the first head's scores.
void SumSoftmax(int64_t group, int64_t num_blocks, float* scores) {
  const int64_t padded = PaddedBlocks(num_blocks);
  float totals[kMaxGroup];
  for (int64_t head = 0; head < group; ++head) totals[head] = LogSumExp(scores + head * padded, num_blocks);
  for (int64_t i = 0; i < padded; i += kLanes) {
    __m256 maximum = _mm256_set1_ps(kNegativeInfinity);
    for (int64_t head = 0; head < group; ++head) {
      const __m256 share = _mm256_sub_ps(_mm256_loadu_ps(scores + head * padded + i), _mm256_set1_ps(totals[head]));
      _mm256_storeu_ps(scores + head * padded + i, share);
      maximum = _mm256_max_ps(share, maximum);
    }
    __m256 sum = _mm256_setzero_ps();
    for (int64_t head = 0; head < group; ++head) {
      sum = _mm256_add_ps(sum, Exp(_mm256_sub_ps(_mm256_loadu_ps(scores + head * padded + i), maximum)));
    }
    _mm256_storeu_ps(scores + i, _mm256_add_ps(maximum, Log(sum)));
  }
}

void Reduce(const SelectBlocksArgs& args, const SelectorRow& row, float* scores) {
  const int64_t group = SelectionGroup(args), stride = PaddedBlocks(row.num_blocks);
  if (row.reduction == ScoreReduction::kSoftmaxSum) return SumSoftmax(group, row.num_blocks, scores);
  for (int64_t head = 1; head < group; ++head) {
    for (int64_t i = 0; i < row.num_blocks; ++i) scores[i] += scores[head * stride + i];
  }
}

// The lowest of the `count` highest orders, and how many of those that equal it are among them.
struct Threshold {
  uint32_t order;
  int64_t num_equal;
};

Threshold FindThreshold(const float* scores, int64_t num_candidates, int64_t count) {
  uint32_t prefix = 0, mask = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    int32_t histogram[256] = {};
    for (int64_t i = 0; i < num_candidates; ++i) {
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
  if (row.num_picked == 0) return;
  if (IsDenseLayer(row, args.layer)) {
    *ListOf(args, row, kv_head) = row.context;
    return;
  }
  float* scores = pass.scores + pass.first_score[task];
  Reduce(args, row, scores);
  const int64_t first = row.first_candidate, end = first + row.num_candidates;
  Threshold threshold = FindThreshold(scores + first, row.num_candidates, row.num_picked);
  ListCursor list = BeginList(args, row, kv_head);
  for (int64_t i = first; i < end; ++i) {
    const uint32_t order = OrderOfScore(scores[i]);
    if (order > threshold.order || (order == threshold.order && threshold.num_equal-- > 0))
      AppendBlock(args, row, i, &list);
  }
  FinishList(args, row, kv_head, &list);
}

}  // namespace

constinit const KernelOp<SelectionPass> kPickBlocks = {NumPickTasks, NoScratch, RunPick};

}  // namespace farspan::kernels::avx2
