// SPDX-License-Identifier: Apache-2.0
// How the scoring of blocks is cut into tasks, and where each score lies.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/kernels/args.h"

namespace farspan::kernels {

// Blocks that one task scores for one KV head of one row.
struct ScoreTile {
  int64_t row_index = 0;  // into SelectBlocksArgs::rows
  int64_t kv_head = 0;
  int64_t begin = 0;  // blocks [begin, end) of the context
  int64_t end = 0;
};

// What scoring and picking see. The scores of row i and KV head h begin at first_score[i * num_kv_heads + h]:
// [group][PaddedBlocks(num_blocks)] floats.
struct SelectionPass {
  const SelectBlocksArgs* args = nullptr;
  const ScoreTile* tiles = nullptr;
  int64_t num_tiles = 0;
  const int64_t* first_score = nullptr;  // [num_rows * num_kv_heads]
  float* scores = nullptr;
};

struct ScoreTiles {
  std::vector<ScoreTile> tiles;
  std::vector<int64_t> first_score;  // as in SelectionPass
  int64_t num_scores = 0;
};

// Replaces the contents of `*tiles`, keeping its memory. A row to which args.layer is dense has no tiles.
void PlanScoreTiles(const SelectBlocksArgs& args, ScoreTiles* tiles);

// Rows of scores are padded to whole vectors.
inline int64_t PaddedBlocks(int64_t num_blocks) { return (num_blocks + 7) / 8 * 8; }

inline int64_t SelectionGroup(const SelectBlocksArgs& args) { return args.num_heads / args.cache.num_kv_heads; }

}  // namespace farspan::kernels
