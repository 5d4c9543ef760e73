// SPDX-License-Identifier: Apache-2.0
// Rows of queries, keys, values and results on their way between memory and a thread block's shared memory.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "engine/kernels/cuda/prefill_elements.cuh"
#include "engine/kernels/cuda/prefill_plan.cuh"

namespace farspan::kernels::cuda {

// Starts copies of blocks of keys and values into planes of shared memory; slots that hold no seen key become zeros.
template <typename S>
class BlockCopier {
 private:
  static constexpr int kRowBytes = S::kHeadDim * S::Element::kBytes, kChunks = kRowBytes / 16;
  static constexpr int kBlockKeys = S::kBlockKeys, kThreads = S::kThreads;
  // Whether a thread copies one chunk of every kStride-th row.
  static constexpr bool kAligned = kThreads % kChunks == 0 && kBlockKeys * kChunks % kThreads == 0;
  static constexpr int kStride = kAligned ? kThreads / kChunks : 1;

 public:
  // Where a block goes: a plane of keys, and its two steps of values.
  struct Target {
    uint32_t keys, values, late_values;
  };

  // A thread's part of a block whose rows lie one behind the other in the cache.
  struct Whole {
    static constexpr int kPlaneCopies = kAligned ? kBlockKeys / kStride : 0, kCopies = 2 * kPlaneCopies;

    const uint8_t* source = nullptr;  // null where there is none
    int64_t value_bytes = 0;          // from a key to its value
    Target target = {};

    template <int kCopy>
    __device__ __forceinline__ void Start() const {
      constexpr int kPlaneCopy = kCopy % kPlaneCopies;
      constexpr bool kIsLate = kPlaneCopy >= kPlaneCopies / 2;
      const uint8_t* row = source + kPlaneCopy * kStride * kRowBytes;
      const int offset = S::Tile::template RowOffset<kStride>(kPlaneCopy);
      if constexpr (kCopy < kPlaneCopies) {
        CopyAsync16If(source != nullptr, target.keys + offset, row);
      } else {
        CopyAsync16If(source != nullptr, kIsLate ? target.late_values + offset - S::kStepBytes : target.values + offset,
                      row + value_bytes);
      }
    }

    template <int kCopy = 0>
    __device__ __forceinline__ void StartAll() const {
      if constexpr (kCopy < kCopies) {
        Start<kCopy>();
        StartAll<kCopy + 1>();
      }
    }
  };

  __device__ explicit BlockCopier(const KvLayerView& cache)
      : cache_(cache),
        data_(static_cast<const uint8_t*>(cache.data) + threadIdx.x / kChunks * kRowBytes + threadIdx.x % kChunks * 16),
        target_(S::Tile::Offset(threadIdx.x / kChunks, threadIdx.x % kChunks)) {}

  __device__ static bool IsWhole(int whole_row) { return kAligned && whole_row >= 0; }

  // The copies of a block, if it IsWhole().
  __device__ __forceinline__ Whole FindWhole(int whole_row, const Target& to) const {
    if (!IsWhole(whole_row)) return {};
    return {.source = data_ + static_cast<int64_t>(whole_row) * kRowBytes,
            .value_bytes = cache_.page_tokens * kRowBytes,
            .target = {to.keys + target_, to.values + target_, to.late_values + target_}};
  }

  // Starts the copies of any block.
  __device__ __forceinline__ void CopyPieces(const PrefillPlan& plan, int index, const Target& to) const {
    CopyPlane(plan, index, 0, to.keys, to.keys + S::kStepBytes);
    CopyPlane(plan, index, cache_.page_tokens * kRowBytes, to.values, to.late_values);
  }

 private:
  // `begin` and `late` are where slot 0 and the second step's first go.
  __device__ __forceinline__ void CopyPlane(const PrefillPlan& plan, int index, int64_t data_offset, uint32_t begin,
                                            uint32_t late) const {
    const PlanBlock& block = plan.blocks[index];
    const PlanPiece* pieces = plan.pieces + block.first_piece;
    const auto* data = static_cast<const uint8_t*>(cache_.data) + data_offset;
    const auto target = [begin, late](int slot, int chunk) {
      return (slot < S::kKeyStep ? begin : late - S::kStepBytes) + S::Tile::Offset(slot, chunk);
    };
    int thread;  // read here, lest what follows from it be computed where no pieces are copied
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
    if (block.piece_shift != kUneven) {
      // All rows are found before the first copy starts: a copy waits for whatever was read before it.
      constexpr int kParts = (kBlockKeys * kChunks + kThreads - 1) / kThreads;
      const int piece_shift = block.piece_shift;
      int rows[kParts];
#pragma unroll
      for (int i = 0; i < kParts; ++i) {
        const int slot = min((thread + i * kThreads) / kChunks, kBlockKeys - 1);
        rows[i] = pieces[slot >> piece_shift].row + slot;
      }
#pragma unroll
      for (int i = 0; i < kParts; ++i) {
        const int copy = thread + i * kThreads, slot = copy / kChunks, chunk = copy % kChunks;
        if (!kAligned && copy >= kBlockKeys * kChunks) break;
        CopyAsync16(target(slot, chunk), data + static_cast<int64_t>(rows[i]) * kRowBytes + chunk * 16);
      }
      return;
    }
    const int num_pieces = block.num_pieces;
    int piece = 0;
#pragma unroll 1
    for (int copy = thread; copy < kBlockKeys * kChunks; copy += kThreads) {
      const int slot = copy / kChunks, chunk = copy % kChunks;
      while (piece + 1 < num_pieces && pieces[piece + 1].begin <= slot) ++piece;
      const bool valid = slot < pieces[piece].end;
      const int64_t row = valid ? pieces[piece].row + slot : 0;
      CopyAsync16(target(slot, chunk), data + row * kRowBytes + chunk * 16, valid);
    }
  }

  const KvLayerView& cache_;
  const uint8_t* data_;  // the thread's part of the cache's first row
  uint32_t target_;      // and of a plane
};

// cos and sin of `position` * `inverse_frequency`; the angle is reduced in float64.
__device__ inline float2 CosSin(int64_t position, double inverse_frequency) {
  constexpr double kTurnsPerRadian = 0.15915494309189533577;
  const double turns = static_cast<double>(position) * (inverse_frequency * kTurnsPerRadian);
  float2 result;
  sincospif(2 * static_cast<float>(turns - rint(turns)), &result.y, &result.x);
  return result;
}

__device__ inline float2 LoadQueryPair(const AttentionCommon& common, int64_t offset) {
  if (common.activation == Activation::kF32) return *reinterpret_cast<const float2*>(common.q_f32() + offset);
  return __bfloat1622float2(
      *reinterpret_cast<const __nv_bfloat162*>(static_cast<const __nv_bfloat16*>(common.q) + offset));
}

// Starts copying the warp's queries into shared memory, where they have the matrix products' element. Rows without a
// query are zeros.
template <typename S>
__device__ inline void CopyQueries(const AttentionCommon& common, const PrefillWork& work, int first_row,
                                   uint8_t* queries) {
  constexpr int kChunks = S::kHeadDim / 8;
  const int lane = static_cast<int>(threadIdx.x % kWarpThreads), warp = static_cast<int>(threadIdx.x / kWarpThreads);
  const auto* q = static_cast<const uint16_t*>(common.q);
#pragma unroll 4
  for (int i = lane; i < S::kWarpRows * kChunks; i += kWarpThreads) {
    const int row = warp * S::kWarpRows + i / kChunks, chunk = i % kChunks;
    const int64_t index = work.VectorIndex(common, first_row + row);
    CopyAsync16(SharedAddress(queries) + S::QueryTile::Offset(row, chunk),
                q + (index < 0 ? 0 : index * S::kHeadDim + chunk * 8), index >= 0);
  }
}

// Writes the warp's queries, which are bf16, into shared memory as the matrix products' element. Rows without a query
// are zeros.
template <typename S>
__device__ inline void ConvertQueries(const AttentionCommon& common, const PrefillWork& work, int first_row,
                                      uint8_t* queries) {
  constexpr int kChunks = S::kHeadDim / 8;
  const int lane = static_cast<int>(threadIdx.x % kWarpThreads), warp = static_cast<int>(threadIdx.x / kWarpThreads);
  const auto* q = static_cast<const uint16_t*>(common.q);
#pragma unroll 4
  for (int i = lane; i < S::kWarpRows * kChunks; i += kWarpThreads) {
    const int row = warp * S::kWarpRows + i / kChunks, chunk = i % kChunks;
    const int64_t index = work.VectorIndex(common, first_row + row);
    uint4 loaded = make_uint4(0, 0, 0, 0);
    if (index >= 0) loaded = *reinterpret_cast<const uint4*>(q + index * S::kHeadDim + chunk * 8);
    const uint32_t pairs[4] = {loaded.x, loaded.y, loaded.z, loaded.w};
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      const int stored = Fragments<typename S::Element>::QueryPair(chunk * 4 + pair);
      *reinterpret_cast<uint32_t*>(queries + S::QueryTile::Offset(row, stored / 4) + stored % 4 * 4) =
          S::Element::Pack(__uint_as_float(pairs[pair] << 16), __uint_as_float(pairs[pair] & 0xffff0000u));
    }
  }
  __syncwarp();
}

// Writes the warp's queries into shared memory, those that stand beyond `cap` turned to it. Rows without a query are
// zeros.
template <typename S>
__device__ inline void WriteQueries(const AttentionCommon& common, const PrefillWork& work, int first_row, int cap,
                                    uint8_t* queries) {
  const int lane = static_cast<int>(threadIdx.x % kWarpThreads), warp = static_cast<int>(threadIdx.x / kWarpThreads);
  for (int pair = lane; pair < S::kHeadDim / 2; pair += kWarpThreads) {
    const bool turns = cap != kFarAway && 2 * pair < common.rope_dim;
    const int stored = Fragments<typename S::Element>::QueryPair(pair);
    const float2 at_cap =
        turns ? CosSin(work.tile.first_position + cap, common.inverse_frequencies[pair]) : make_float2(1, 0);
#pragma unroll 8
    for (int i = 0; i < S::kWarpRows; ++i) {
      const int row = warp * S::kWarpRows + i, query = work.Query(first_row + row);
      const int64_t index = work.VectorIndex(common, first_row + row);
      float2 q = make_float2(0, 0);
      if (index >= 0) {
        const int64_t batch_row = work.tile.row + query;
        q = LoadQueryPair(common, index * S::kHeadDim + 2 * pair);
        if (turns && query > cap) {
          const float2 own =
              reinterpret_cast<const float2*>(common.rope_cos_sin)[batch_row * (common.rope_dim / 2) + pair];
          const float turn_cos = at_cap.x * own.x + at_cap.y * own.y, turn_sin = at_cap.y * own.x - at_cap.x * own.y;
          q = make_float2(q.x * turn_cos - q.y * turn_sin, q.x * turn_sin + q.y * turn_cos);
        }
      }
      *reinterpret_cast<uint32_t*>(queries + S::QueryTile::Offset(row, stored / 4) + stored % 4 * 4) =
          S::Element::Pack(q.x, q.y);
    }
  }
  __syncwarp();
}

// Writes what a lane holds of the 16 channels from 8 * `chunk` on of one row, which is vector `index` of the batch.
template <typename S>
__device__ __forceinline__ void WriteValues(const AttentionCommon& common, int64_t index, int row, int chunk,
                                            const float (&values)[4], uint8_t* queries) {
  using Loaded = Fragments<typename S::Element>;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float2 pair = make_float2(values[Loaded::ValueIndex(2 * i)], values[Loaded::ValueIndex(2 * i + 1)]);
    const int channel = chunk * 8 + Loaded::ValueChannel(static_cast<int>(threadIdx.x % 4), i);
    if (common.activation == Activation::kBf16) {
      *reinterpret_cast<uint32_t*>(queries + S::QueryTile::Offset(row, channel / 8) + channel % 8 * 2) =
          Bf16Element::Pack(pair.x, pair.y);
    } else if (index >= 0) {
      *reinterpret_cast<float2*>(common.out_f32() + index * S::kHeadDim + channel) = pair;
    }
  }
}

// Writes the warp's normalised rows, through its part of the queries' shared memory where they are 16-bit. Row tiles
// and halves are an Accumulator's.
template <typename S, typename Sums>
__device__ inline void WriteResults(const AttentionCommon& common, const PrefillWork& work, int first_row,
                                    const Sums& sums, uint8_t* queries) {
  constexpr int kHeadDim = S::kHeadDim, kChunks = kHeadDim / 8;
  const int lane = static_cast<int>(threadIdx.x % kWarpThreads), warp = static_cast<int>(threadIdx.x / kWarpThreads);
#pragma unroll
  for (int i = 0; i < 2 * S::kRowTiles; ++i) {
    const int tile = i / 2, half = i % 2;
    float sum = sums.sum[tile][half];
    sum += __shfl_xor_sync(kWholeWarp, sum, 1);
    sum += __shfl_xor_sync(kWholeWarp, sum, 2);
    const float inverse = sum == 0 ? 0.0f : 1.0f / sum;
    const int row = warp * S::kWarpRows + i * 8 + lane / 4;
    const int64_t index = work.VectorIndex(common, first_row + row);
    if (index >= 0 && lane % 4 == 0 && common.lse != nullptr) {
      constexpr float kLn2 = 0.69314718055994530942f;
      common.lse[index] = kLn2 * (log2f(sum) - sums.offset[tile][half]);
    }
#pragma unroll
    for (int n = 0; n < kChunks; n += 2) {
      const float(&low)[4] = sums.out[tile][n], (&high)[4] = sums.out[tile][n + 1];
      const float values[4] = {low[2 * half] * inverse, low[2 * half + 1] * inverse, high[2 * half] * inverse,
                               high[2 * half + 1] * inverse};
      WriteValues<S>(common, index, row, n, values, queries);
    }
  }
  if (common.activation != Activation::kBf16) return;
  __syncwarp();
  for (int i = lane; i < S::kWarpRows * kChunks; i += kWarpThreads) {
    const int row = warp * S::kWarpRows + i / kChunks, chunk = i % kChunks;
    const int64_t index = work.VectorIndex(common, first_row + row);
    if (index < 0) break;
    *reinterpret_cast<uint4*>(static_cast<__nv_bfloat16*>(common.out) + index * kHeadDim + chunk * 8) =
        *reinterpret_cast<const uint4*>(queries + S::QueryTile::Offset(row, chunk));
  }
}

}  // namespace farspan::kernels::cuda
