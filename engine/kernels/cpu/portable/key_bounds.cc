// SPDX-License-Identifier: Apache-2.0
// The bounds of runs of keys, and the largest dot product that a query can have with a key within them.
#include <cmath>

#include "engine/kernels/cpu/attention_walk.h"
#include "engine/kernels/cpu/block_lists.h"
#include "engine/kernels/cpu/number_formats.h"
#include "engine/kernels/cpu/portable/kernels.h"
#include "engine/kernels/cpu/row_tasks.h"

namespace farspan::kernels::portable {
namespace {

float Load(const KvLayerView& cache, const void* data, int64_t index) {
  return WithKvElement(cache.element,
                       [&]<typename Element>() { return Widen(static_cast<const Element*>(data)[index]); });
}

void Store(const KvLayerView& cache, void* data, int64_t index, float value) {
  WithKvElement(cache.element, [&]<typename Element>() { Narrow(value, static_cast<Element*>(data) + index); });
}

int64_t NumFillTasks(const FillKeyBoundsArgs& args) { return args.num_runs; }

// Bounds of `num_tokens` keys that begin at element `keys`, written from element `bounds` on.
void FillTokens(const FillKeyBoundsArgs& args, int64_t keys, int64_t num_tokens, int64_t bounds) {
  const KvLayerView& cache = args.cache;
  for (int64_t i = 0; i < cache.head_dim; ++i) {
    float smallest = Load(cache, cache.data, keys + i), largest = smallest;
    for (int64_t token = 1; token < num_tokens; ++token) {
      const float key = Load(cache, cache.data, keys + token * cache.head_dim + i);
      if (key < smallest || std::isnan(key)) smallest = key;
      if (key > largest || std::isnan(key)) largest = key;
    }
    Store(cache, args.bounds.data, bounds + i, smallest);
    Store(cache, args.bounds.data, bounds + cache.head_dim + i, largest);
  }
}

void FillRun(const FillKeyBoundsArgs& args, int64_t task, void*) {
  const KvLayerView& cache = args.cache;
  const KeyRun run = args.runs[task];
  if (run.page < 0) return;
  const int64_t run_tokens = KeyBoundsTokens(cache.page_tokens), runs = cache.page_tokens / run_tokens;
  for (int64_t kv_head = 0; kv_head < cache.num_kv_heads; ++kv_head) {
    const int64_t keys = KeyOffset(cache, run.page, kv_head);
    const int64_t bounds = RunBoundsOffset(cache, run.page, kv_head, run.run);
    FillTokens(args, keys + run.run * run_tokens * cache.head_dim, run_tokens, bounds);
    if (runs > 1 && run.run == runs - 1) {
      FillTokens(args, keys, cache.page_tokens, PageBoundsOffset(cache, run.page, kv_head));
    }
  }
}

int64_t NumScoreTasks(const SelectionPass& pass) { return pass.num_tiles; }

// Sum over channels of max(q * smallest, q * largest) over the runs or pages of a block: their bounds combined.
float ScoreBlock(const SelectBlocksArgs& args, const SelectorRow& row, int64_t kv_head, int64_t block, const float* q) {
  const KvLayerView& cache = args.cache;
  const int64_t step = KeyBoundsTokens(cache.page_tokens, row.block_tokens);
  const int64_t begin = block * row.block_tokens, end = begin + row.block_tokens;
  float score = 0;
  for (int64_t i = 0; i < cache.head_dim; ++i) {
    float best = -INFINITY;
    for (int64_t token = begin; token < end; token += step) {
      const int64_t bounds = BoundsOfToken(args, row, kv_head, token);
      const float low = q[i] * Load(cache, args.bounds.data, bounds + i);
      const float high = q[i] * Load(cache, args.bounds.data, bounds + cache.head_dim + i);
      for (const float product : {low, high}) {
        if (product > best || std::isnan(product)) best = product;
      }
    }
    score += best;
  }
  return score;
}

void ScoreBlocks(const SelectionPass& pass, int64_t task, void*) {
  const SelectBlocksArgs& args = *pass.args;
  const ScoreTile& tile = pass.tiles[task];
  const SelectorRow& row = args.rows[tile.row_index];
  const int64_t group = SelectionGroup(args);
  float* scores = pass.scores + pass.first_score[tile.row_index * args.cache.num_kv_heads + tile.kv_head];
  for (int64_t head = 0; head < group; ++head) {
    const float* q = args.q_f32() + (row.row * args.num_heads + tile.kv_head * group + head) * args.cache.head_dim;
    for (int64_t block = tile.begin; block < tile.end; ++block) {
      scores[head * PaddedBlocks(row.num_blocks) + block] = ScoreBlock(args, row, tile.kv_head, block, q);
    }
  }
}

}  // namespace

constinit const KernelOp<FillKeyBoundsArgs> kFillKeyBounds = {NumFillTasks, NoScratch, FillRun};
constinit const KernelOp<SelectionPass> kScoreKeyBounds = {NumScoreTasks, NoScratch, ScoreBlocks};

}  // namespace farspan::kernels::portable
