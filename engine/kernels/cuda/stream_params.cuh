// SPDX-License-Identifier: Apache-2.0
// What the kernels that stream weights past few rows share, whatever the weights' format: which outputs a tile has, how
// rows of x come to shared memory, how the sums of a block's warps become outputs.
//
// Here a tile is 16 weight rows in all their columns; blocks share the tiles out evenly and stay. The warps of a block
// split the columns in steps, taken in turn, and run products on tensor cores: weights are the 16 x k operand, rows of
// x its k x 8 partner, and columns are permuted alike in both so that fragments are plain 16-byte loads.
#pragma once

#include <cuda_fp8.h>

#include <limits>

#include "engine/kernels/cuda/device.cuh"
#include "engine/kernels/cuda/linear.h"

namespace farspan::kernels::cuda {

inline constexpr int kTileOutputs = 16;
inline constexpr int kChunkColumns = 32;  // of two products
inline constexpr int kRowsPerFragment = 8;
inline constexpr int kMaxWarps = 16;
inline constexpr int kVectorBytes = 16;
inline constexpr int kSegmentColumns = 256;  // of a normed row that a warp takes at a time
inline constexpr int kMaxSegments = 64;

enum class StreamInput : uint8_t {
  kNormed,    // float32 rows, normed on their way to shared memory
  kShared,    // bf16 rows, copied to shared memory
  kStreamed,  // bf16 rows too long for that: they stream beside the weights
};

// kProjected: queries, keys and values, which are turned and put where attention reads them.
enum class StreamOutput : uint8_t { kBf16, kGated, kAdded, kFloat32, kProjected };

struct StreamParams {
  const void* x;
  const float* norm_weight;
  const int64_t* rows;  // where x has more of them
  float epsilon;
  int columns;
  int num_rows;
  int x_stride_bytes;  // of rows in shared memory
  const uint8_t* weights[kMaxJoinedWeights];
  int weight_rows[kMaxJoinedWeights];
  int first_tile[kMaxJoinedWeights];    // tiles are numbered through the weights, in turn where gates go by tiles
  int first_output[kMaxJoinedWeights];  // where a weight's outputs begin in a row of `out`
  int num_tiles;
  StreamOutput output;
  void* out;
  int64_t out_stride;  // elements
  // Of projected outputs; `out` has the queries alone.
  const float* cos_sin;
  const KvSlot* slots;
  KvLayerView cache;
  int num_heads;
  int rope_dim;
  int batch_steps;  // steps between two exchanges of sums
  int buffers;      // of a batch's partial sums: with two, a batch's are read while the next one's are written
  // Of tiles alone.
  int num_units;  // of one tile, or of a gate's and its partner's
  int unit_tiles;
  int column_bits;                   // 2 to it warps split a unit's columns
  int staged_columns;                // of x, in shared memory at a time
  uint32_t per_row, per_staged_row;  // 2^32 over rows, and over vectors of a staged row, rounded up
};

// Of all rows of x in shared memory.
__host__ __device__ constexpr int64_t XBytes(const StreamParams& params) {
  return static_cast<int64_t>(params.num_rows) * params.x_stride_bytes;
}

__device__ inline int NumWarps() { return static_cast<int>(blockDim.x) / kWarpThreads; }
__device__ inline int Warp() { return static_cast<int>(threadIdx.x) / kWarpThreads; }
__device__ inline int Lane() { return static_cast<int>(threadIdx.x) % kWarpThreads; }

__device__ inline void CopyAsync(uint32_t shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(valid ? 16 : 0)
               : "memory");
}
__device__ inline void CommitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
__device__ inline void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

__device__ inline uint32_t SharedAddress(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

__device__ inline uint4 LoadShared(uint32_t shared) {
  uint4 value;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "r"(shared)
               : "memory");
  return value;
}

__device__ inline uint2 LoadShared8(uint32_t shared) {
  uint2 value;
  asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(value.x), "=r"(value.y) : "r"(shared) : "memory");
  return value;
}

__device__ inline uint32_t LoadShared4(uint32_t shared) {
  uint32_t value;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(value) : "r"(shared) : "memory");
  return value;
}

__device__ inline uint16_t LoadShared2(uint32_t shared) {
  uint16_t value;
  asm volatile("ld.shared.u16 %0, [%1];" : "=h"(value) : "r"(shared) : "memory");
  return value;
}

// sums += a b, with m16n8k16 fragments.
__device__ inline void MultiplyAdd(float (&sums)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                   uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ inline uint32_t PackBf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// Which of the joined weights a tile belongs to. Gated products interleave theirs: their sums meet in one block.
__device__ inline int WeightOfTile(const StreamParams& params, int tile) {
  if (params.output == StreamOutput::kGated) return 0;
  return (tile >= params.first_tile[1]) + (tile >= params.first_tile[2]);
}

// Eight columns of a row of the residual stream and their norm weights.
struct HiddenVector {
  float4 x[2];
  float4 weight[2];
};

// One warp's part of a row: the columns of segment `task % segments` of row `task / segments`.
struct NormTask {
  int row, segment, column;
};

__device__ inline NormTask TaskOf(int task, int segments) {
  const int row = task / segments, segment = task % segments;
  return {row, segment, segment * kSegmentColumns + Lane() * 8};
}

__device__ inline HiddenVector LoadHidden(const StreamParams& params, const NormTask& task) {
  HiddenVector vector = {};
  if (task.column >= params.columns) return vector;
  const int64_t row = params.rows == nullptr ? task.row : params.rows[task.row];
  const auto* x =
      reinterpret_cast<const float4*>(static_cast<const float*>(params.x) + row * params.columns + task.column);
  const auto* weight = reinterpret_cast<const float4*>(params.norm_weight + task.column);
  return {{x[0], x[1]}, {weight[0], weight[1]}};
}

__device__ inline void StageHidden(const StreamParams& params, const NormTask& task, const HiddenVector& vector,
                                   uint8_t* x_shared, float (*squares)[kMaxSegments]) {
  const float4 a = vector.x[0], b = vector.x[1], c = vector.weight[0], d = vector.weight[1];
  const float sum =
      WarpSum(a.x * a.x + a.y * a.y + a.z * a.z + a.w * a.w + (b.x * b.x + b.y * b.y + b.z * b.z + b.w * b.w));
  if (Lane() == 0) squares[task.row][task.segment] = sum;
  if (task.column * 2 >= params.x_stride_bytes) return;
  *reinterpret_cast<uint4*>(x_shared + task.row * params.x_stride_bytes + task.column * 2) = {
      PackBf16(a.x * c.x, a.y * c.y), PackBf16(a.z * c.z, a.w * c.w), PackBf16(b.x * d.x, b.y * d.y),
      PackBf16(b.z * d.z, b.w * d.w)};
}

// Puts the rows of the residual stream into shared memory as bf16, zeros after the last column. They are only weighted
// here: the factor that is one for a whole row is applied to its sums. `squares` gets the sums of squares of segments.
__device__ inline void StageNormedRows(const StreamParams& params, uint8_t* x_shared, float (*squares)[kMaxSegments]) {
  const int segments = (params.columns + kSegmentColumns - 1) / kSegmentColumns, tasks = params.num_rows * segments;
  for (int i = Warp(); i < tasks; i += 2 * NumWarps()) {
    const NormTask first = TaskOf(i, segments), second = TaskOf(i + NumWarps(), segments);
    const bool both = i + NumWarps() < tasks;
    const HiddenVector a = LoadHidden(params, first);
    const HiddenVector b = both ? LoadHidden(params, second) : HiddenVector{};
    StageHidden(params, first, a, x_shared, squares);
    if (both) StageHidden(params, second, b, x_shared, squares);
  }
}

// The same for bf16 rows.
__device__ inline void StageRows(const StreamParams& params, uint8_t* x_shared) {
  const int vectors = params.x_stride_bytes / kVectorBytes, all = params.num_rows * vectors;
  for (int i = static_cast<int>(threadIdx.x); i < all; i += static_cast<int>(blockDim.x)) {
    const int row = i / vectors, column = i % vectors * 8;
    const bool exists = column < params.columns;
    const int64_t offset = exists ? static_cast<int64_t>(row) * params.columns + column : 0;
    CopyAsync(SharedAddress(x_shared) + i * kVectorBytes, static_cast<const uint16_t*>(params.x) + offset, exists);
  }
  CommitCopies();
  WaitForCopies<0>();
}

// Norm weights do not change: they come closer before the previous kernel has ended.
__device__ inline void PrefetchNormWeights(const StreamParams& params) {
  for (int column = static_cast<int>(threadIdx.x) * 8; column < params.columns;
       column += static_cast<int>(blockDim.x) * 8) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(params.norm_weight + column));
  }
}

__device__ inline float NormFactor(const StreamParams& params, const float* squares) {
  const int segments = (params.columns + kSegmentColumns - 1) / kSegmentColumns;
  float sum = 0;
  for (int i = 0; i < segments; ++i) sum += squares[i];
  return 1.0f / sqrtf(sum / static_cast<float>(params.columns) + params.epsilon);
}

// Partial sums of a tile: [warp][row][16 outputs].
template <int kFragments>
__device__ void StorePartials(const StreamParams& params, const float (&even)[kFragments][4],
                              const float (&odd)[kFragments][4], float* partials) {
  float* own = partials + Warp() * params.num_rows * kTileOutputs;
#pragma unroll
  for (int i = 0; i < kFragments; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int row = i * kRowsPerFragment + Lane() % 4 * 2 + j % 2;
      if (row < params.num_rows) own[row * kTileOutputs + j / 2 * 8 + Lane() / 4] = even[i][j] + odd[i][j];
    }
  }
}

__device__ inline float AddPartials(const StreamParams& params, const float* partials, int row, int output) {
  float sum = 0;
#pragma unroll 8
  for (int warp = 0; warp < NumWarps(); ++warp) {
    sum += partials[(warp * params.num_rows + row) * kTileOutputs + output];
  }
  return sum;
}

// The output that a thread writes of each batch.
struct OutputPlace {
  bool exists;
  int slot;  // the tile's, in the batch
  int row;
  int index;  // in the tile
  int64_t element;
  int head, channel;  // of a projected output
};

// `output` of a row.
template <bool kProjects>
__device__ void PlaceInRow(const StreamParams& params, int output, OutputPlace* place) {
  if constexpr (kProjects) {
    const int head_dim = static_cast<int>(params.cache.head_dim);
    place->head = output / head_dim;
    place->channel = output - place->head * head_dim;
    place->element = static_cast<int64_t>(place->row) * params.num_heads * head_dim + output;  // of the queries
  } else {
    place->element = place->row * params.out_stride + output;
  }
}

// The block's tiles of a batch are the kTiles from `first` on, then as many `step` further on, and so on.
template <int kTiles, bool kProjects>
__device__ OutputPlace PlaceOfThread(const StreamParams& params, int first, int step) {
  const int width = params.output == StreamOutput::kGated ? kTileOutputs / 2 : kTileOutputs;
  const int tile_outputs = width * params.num_rows;
  const int nth = static_cast<int>(threadIdx.x) / tile_outputs, rest = static_cast<int>(threadIdx.x) % tile_outputs;
  const int tile = first + nth / kTiles * step + nth % kTiles;
  OutputPlace place{};
  place.slot = nth;
  place.row = rest / width;
  place.index = rest % width;
  const int weight = WeightOfTile(params, tile);
  const int output = (tile - params.first_tile[weight]) * width + place.index;
  place.exists = nth < params.batch_steps * kTiles && tile < params.num_tiles && output < params.weight_rows[weight];
  PlaceInRow<kProjects>(params, params.first_output[weight] + output, &place);
  return place;
}

// What an output needs to know beside its sum, asked for before the sum is there.
struct BeforeOutput {
  float old = 0;
  KvSlot slot = {};
  float2 rotation = {1, 0};  // {cos, sin} of the output's pair
};

template <bool kProjects>
__device__ BeforeOutput LoadBefore(const StreamParams& params, const OutputPlace& place) {
  BeforeOutput before;
  if (!place.exists) return before;
  if constexpr (!kProjects) {
    if (params.output == StreamOutput::kAdded) before.old = static_cast<const float*>(params.out)[place.element];
    return before;
  }
  before.slot = params.slots[place.row];
  if (place.channel < params.rope_dim && place.head < params.num_heads + static_cast<int>(params.cache.num_kv_heads)) {
    const int pair = place.channel & ~1;
    before.rotation = *reinterpret_cast<const float2*>(params.cos_sin + place.row * params.rope_dim + pair);
  }
  return before;
}

__device__ inline void StoreCached(const KvLayerView& cache, int64_t index, float value) {
  switch (cache.element) {
    case KvElement::kBf16:
      static_cast<__nv_bfloat16*>(cache.data)[index] = __float2bfloat16_rn(value);
      return;
    case KvElement::kF32:
      static_cast<float*>(cache.data)[index] = value;
      return;
    case KvElement::kF16:
      static_cast<__half*>(cache.data)[index] = __float2half_rn(value);
      return;
    case KvElement::kF8E4M3:
      static_cast<__nv_fp8_storage_t*>(cache.data)[index] = __nv_cvt_float_to_fp8(value, __NV_SATFINITE, __NV_E4M3);
      return;
  }
}

// `partner` is the sum of the other output of the pair.
__device__ inline void WriteProjected(const StreamParams& params, const OutputPlace& place, float sum, float partner,
                                      const BeforeOutput& before) {
  if (before.slot.page < 0) return;
  const float sine = place.channel % 2 == 0 ? -before.rotation.y : before.rotation.y;
  const float turned = sum * before.rotation.x + partner * sine;
  if (place.head < params.num_heads) {
    static_cast<__nv_bfloat16*>(params.out)[place.element] = __float2bfloat16_rn(turned);
    return;
  }
  const KvLayerView& cache = params.cache;
  const int kv_heads = static_cast<int>(cache.num_kv_heads), kv_head = place.head - params.num_heads;
  const int plane = kv_head < kv_heads ? kv_head * 2 : (kv_head - kv_heads) * 2 + 1;
  StoreCached(cache,
              before.slot.page * cache.page_elements() + plane * cache.plane_elements() +
                  before.slot.token * cache.head_dim + place.channel,
              turned);
}

// `other`: of a gated output its partner's sum, of a projected one that of its pair.
template <bool kProjects>
__device__ void WriteSum(const StreamParams& params, const OutputPlace& place, float sum, float other,
                         const BeforeOutput& before) {
  if constexpr (kProjects) return WriteProjected(params, place, sum, other, before);
  switch (params.output) {
    case StreamOutput::kBf16:
      static_cast<__nv_bfloat16*>(params.out)[place.element] = __float2bfloat16_rn(sum);
      return;
    case StreamOutput::kGated:
      static_cast<__nv_bfloat16*>(params.out)[place.element] = __float2bfloat16_rn(sum / (1.0f + __expf(-sum)) * other);
      return;
    case StreamOutput::kAdded:
    case StreamOutput::kFloat32:
      static_cast<float*>(params.out)[place.element] = before.old + sum;
      return;
    case StreamOutput::kProjected:
      return;
  }
}

// `ups` are the partial sums of the gates' partners.
template <bool kProjects>
__device__ void WriteOutput(const StreamParams& params, const OutputPlace& place, const float* partials,
                            const float* ups, float factor, const BeforeOutput& before) {
  const float sum = AddPartials(params, partials, place.row, place.index) * factor;
  float other = 0;
  if constexpr (kProjects) {
    other = AddPartials(params, partials, place.row, place.index ^ 1) * factor;
  } else if (params.output == StreamOutput::kGated) {
    other = AddPartials(params, ups, place.row, place.index) * factor;
  }
  WriteSum<kProjects>(params, place, sum, other, before);
}

// One launch of the kernel for tiles; cudaErrorInvalidValue where the rows do not fit. Defined for every tiled type.
template <WeightType kType>
cudaError_t StreamTiles(const StreamParams& params, cudaStream_t stream);

}  // namespace farspan::kernels::cuda
