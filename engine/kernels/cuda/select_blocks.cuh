// SPDX-License-Identifier: Apache-2.0
// The two stages of choosing blocks, scoring and picking, and where the scores lie between them.
#pragma once

#include "engine/kernels/cuda/device.cuh"
#include "engine/kernels/cuda/kernels.h"

namespace farspan::kernels::cuda {

inline constexpr int kMaxGroup = 32;
// Blocks whose exponentials are summed together, a function of the model's shape alone, lie between these.
inline constexpr int kSmallestTileBlocks = 8, kLargestTileBlocks = 64;

// The largest score of a tile and the sum of the exponentials of the differences to it.
struct ScorePartial {
  float maximum;
  float sum;
};

// Of each (row, KV head) pair: the scores of every query head, [group][max_blocks]; partials [group][max_tiles]; and
// the blocks picked, [max_blocks]. max_blocks is a multiple of kLargestTileBlocks.
struct ScoreMemory {
  float* scores;
  ScorePartial* partials;
  int32_t* picks;
  int64_t max_blocks;
  int64_t max_tiles;
  int64_t group;
  int tile_blocks;

  __device__ float* ScoresOf(int64_t pair, int64_t head) const { return scores + (pair * group + head) * max_blocks; }
  __device__ ScorePartial* PartialsOf(int64_t pair, int64_t head) const {
    return partials + (pair * group + head) * max_tiles;
  }
  __device__ int32_t* PicksOf(int64_t pair) const { return picks + pair * max_blocks; }
};

// Lays the arrays out in a workspace of SelectBlocksWorkspaceBytes.
ScoreMemory MakeScoreMemory(const SelectBlocksArgs& args, int64_t max_blocks, Workspace workspace);

int ScoreTileBlocks(const SelectBlocksArgs& args);
cudaError_t LaunchScoreBlocks(const SelectBlocksArgs& args, const ScoreMemory& memory, cudaStream_t stream);
cudaError_t LaunchPickBlocks(const SelectBlocksArgs& args, const ScoreMemory& memory, cudaStream_t stream);

}  // namespace farspan::kernels::cuda
