// SPDX-License-Identifier: Apache-2.0
// Tiles to rows of bf16. A warp a tile: through shared memory, so that both sides are read and written in whole
// vectors.
#include "engine/kernels/cuda/tile_levels.cuh"

namespace farspan::kernels::cuda {
namespace {

constexpr int kWarps = 8;

// Two levels less their offset, from the bits of TileLevels: levels that stand four bits up are 16 times as large.
template <WeightType kType>
__device__ float2 Dequantized(uint32_t levels, int pair, float scale, float min) {
  using Levels = TileLevels<kType>;
  const int shift = Levels::kRaisesOddPairs && pair % 2 == 1 ? 4 : 0;
  const auto low = static_cast<float>(static_cast<int>(levels >> shift & 0xff) - Levels::kOffset);
  const auto high = static_cast<float>(static_cast<int>(levels >> (16 + shift) & 0xff) - Levels::kOffset);
  return {fmaf(scale, low, min), fmaf(scale, high, min)};
}

template <WeightType kType>
__global__ void DequantizeKernel(DequantizeArgs args) {
  constexpr TileTraits kTraits = TraitsOfTiles(kType);
  constexpr int kScaleBytes = kTraits.has_min ? 4 : 2;
  __shared__ __align__(16) uint8_t tiles[kWarps][kTraits.tile_bytes()];
  LetNextStart();
  WaitForPrevious();
  const int64_t columns = args.weight.columns, tiles_a_strip = columns / kTileColumns;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kWarps + Warp();
  if (index >= args.num_rows / kTileRows * tiles_a_strip) return;
  const int64_t strip = index / tiles_a_strip, column = index % tiles_a_strip * kTileColumns;
  const uint8_t* from = static_cast<const uint8_t*>(args.weight.data) +
                        TileOffset(kTraits, columns, args.first_row + strip * kTileRows, column);
  for (int at = Lane() * kVectorBytes; at < kTraits.tile_bytes(); at += kWarpThreads * kVectorBytes) {
    *reinterpret_cast<uint4*>(tiles[Warp()] + at) = *reinterpret_cast<const uint4*>(from + at);
  }
  __syncwarp();
  TileLevels<kType> levels;
  levels.Load(SharedAddress(tiles[Warp()]));
#pragma unroll
  for (int chunk = 0; chunk < 2; ++chunk) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t pairs[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const TilePlace place = {.chunk = chunk, .half = half, .row = half * 8 + Lane() / 4, .group = i / 2};
        const TilePlace first = {.chunk = chunk, .half = half, .row = half * 8 + Lane() / 4, .group = 0};
        const uint8_t* scale = tiles[Warp()] + kTraits.scales_at() +
                               (kTraits.groups() == 2 ? place : first).scale_index(kTraits) * kScaleBytes;
        const float2 values = Dequantized<kType>(levels.Pair(chunk, half, i), i, LoadHalf(scale),
                                                 kTraits.has_min ? LoadHalf(scale + 2) : 0.0f);
        pairs[i] = PackBf16(values.x, values.y);
      }
      auto* row = static_cast<uint16_t*>(args.out) + (strip * kTileRows + half * 8 + Lane() / 4) * columns + column +
                  chunk * kChunkColumns;
      if constexpr (kTraits.groups() == 2) {
        *reinterpret_cast<uint2*>(row + Lane() % 4 * 4) = {pairs[0], pairs[1]};
        *reinterpret_cast<uint2*>(row + 16 + Lane() % 4 * 4) = {pairs[2], pairs[3]};
      } else {
        *reinterpret_cast<uint4*>(row + Lane() % 4 * 8) = {pairs[0], pairs[1], pairs[2], pairs[3]};
      }
    }
  }
}

template <WeightType kTiles>
__global__ void PackTilesKernel(PackTilesArgs args) {
  constexpr TileTraits kTraits = TraitsOfTiles(kTiles);
  WaitForPrevious();
  const int64_t columns = args.blocks.columns, row_blocks = columns / kQuantBlock;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= args.blocks.rows * row_blocks) return;
  const int64_t row = index / row_blocks, column = index % row_blocks * kQuantBlock;
  const int64_t block_bytes = WeightRowBytes(args.blocks.type, kQuantBlock);
  PutBlock(kTraits, static_cast<const uint8_t*>(args.blocks.data) + index * block_bytes,
           static_cast<int>(row % kTileRows), static_cast<int>(column / kChunkColumns % 2),
           static_cast<uint8_t*>(args.tiles) + TileOffset(kTraits, columns, row, column));
}

}  // namespace

cudaError_t LaunchPackTiles(const PackTilesArgs& args, cudaStream_t stream) {
  const WeightView& blocks = args.blocks;
  if (blocks.rows % kTileRows != 0 || blocks.columns % kTileColumns != 0) return cudaErrorInvalidValue;
  constexpr int kThreads = 128;
  const int64_t num_blocks = blocks.rows * (blocks.columns / kQuantBlock);
  const dim3 grid(static_cast<unsigned>((num_blocks + kThreads - 1) / kThreads));
  if (blocks.type == WeightType::kQ4_0) {
    return LaunchKernel(PackTilesKernel<WeightType::kTiled4>, grid, dim3(kThreads), 0, stream, args);
  }
  if (blocks.type != WeightType::kQ8_0) return cudaErrorInvalidValue;
  return LaunchKernel(PackTilesKernel<WeightType::kTiled8>, grid, dim3(kThreads), 0, stream, args);
}

cudaError_t LaunchDequantize(const DequantizeArgs& args, cudaStream_t stream) {
  if (args.num_rows == 0) return cudaSuccess;
  return WithWeightType(args.weight.type, [&]<WeightType kType>() {
    if constexpr (!IsTiled(kType)) {
      return cudaErrorInvalidValue;
    } else {
      const int64_t tiles = args.num_rows / kTileRows * (args.weight.columns / kTileColumns);
      const auto blocks = static_cast<unsigned>((tiles + kWarps - 1) / kWarps);
      return LaunchKernel(DequantizeKernel<kType>, dim3(blocks), dim3(kWarps * kWarpThreads), 0, stream, args);
    }
  });
}

}  // namespace farspan::kernels::cuda
