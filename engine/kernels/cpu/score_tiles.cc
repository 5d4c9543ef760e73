// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/cpu/score_tiles.h"

#include <algorithm>

namespace farspan::kernels {

void PlanScoreTiles(const SelectBlocksArgs& args, ScoreTiles* tiles) {
  constexpr int64_t kBlocksPerTile = 128;
  tiles->tiles.clear();
  tiles->first_score.clear();
  tiles->num_scores = 0;
  for (int64_t i = 0; i < args.num_rows; ++i) {
    const SelectorRow& row = args.rows[i];
    const bool dense = IsDenseLayer(row, args.layer);
    for (int64_t kv_head = 0; kv_head < args.cache.num_kv_heads; ++kv_head) {
      tiles->first_score.push_back(tiles->num_scores);
      if (dense) continue;
      tiles->num_scores += SelectionGroup(args) * PaddedBlocks(row.num_blocks);
      for (int64_t begin = 0; begin < row.num_blocks; begin += kBlocksPerTile) {
        tiles->tiles.push_back({i, kv_head, begin, std::min(begin + kBlocksPerTile, row.num_blocks)});
      }
    }
  }
}

}  // namespace farspan::kernels
