// SPDX-License-Identifier: Apache-2.0
// Products of up to 16 rows with bf16 weights that stream from memory once. A tile is 16 weight rows; the blocks share
// the tiles out evenly and stay. The warps of a block split the columns in chunks of 32, taken in turn; each lane asks
// for its own 16 bytes of a weight row by cp.async several chunks ahead, across tiles too, so that memory is never idle
// while sums are exchanged. The products run on tensor cores: weights are the 16 x k operand, the rows of x its
// k x 8 partner, and columns are permuted alike in both so that fragments are plain 16-byte loads. What a lane sums for
// one row does not depend on the other rows. The first chunks are asked for before the previous kernel has ended:
// weights do not change.
#include "engine/kernels/cuda/device.cuh"
#include "engine/kernels/cuda/linear.h"

namespace farspan::kernels::cuda {
namespace {

constexpr int kTileOutputs = 16;
constexpr int kChunkColumns = 32;
constexpr int kRowsPerFragment = 8;
constexpr int kMaxWarps = 16;
constexpr int kLaneBytes = 16;
constexpr int kSlotBytes = kWarpThreads * kLaneBytes;  // what a warp copies at a time

enum class Input : uint8_t {
  kNormed,    // float32 rows, normed on their way to shared memory
  kShared,    // bf16 rows, copied to shared memory
  kStreamed,  // bf16 rows too long for that: they stream beside the weights
};

enum class Output : uint8_t { kBf16, kGated, kAdded, kFloat32 };

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
  int first_tile[kMaxJoinedWeights];    // tiles are numbered through the weights
  int first_output[kMaxJoinedWeights];  // where a weight's outputs begin in a row of `out`
  int num_tiles;
  Output output;
  void* out;
  int64_t out_stride;  // elements
};

// Of all rows of x in shared memory.
__host__ __device__ constexpr int64_t XBytes(const StreamParams& params) {
  return static_cast<int64_t>(params.num_rows) * params.x_stride_bytes;
}

// Two m16 tiles a step where rows of x stream: each of their bytes then serves twice as many weights.
template <Input kInput>
constexpr int kTilesPerStep = kInput == Input::kStreamed ? 2 : 1;
template <Input kInput, int kFragments>
constexpr int kStageBytes = kSlotBytes*(2 * kTilesPerStep<kInput> + (kInput == Input::kStreamed ? kFragments : 0));
// Stages of a warp's ring: two kernels of one row fit on a multiprocessor, so that one fills its ring while the other
// still runs.
template <Input kInput, int kFragments>
constexpr int kStages = kInput == Input::kStreamed || kFragments > 1 ? 4 : 5;

__device__ void CopyAsync(uint32_t shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(valid ? 16 : 0)
               : "memory");
}
__device__ void CommitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
__device__ void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

__device__ uint32_t SharedAddress(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

__device__ uint4 LoadShared(uint32_t shared) {
  uint4 value;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "r"(shared)
               : "memory");
  return value;
}

__device__ void MultiplyAdd(float (&sums)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                            uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ uint32_t PackBf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// A weight row, or none where a tile reaches past the last one.
struct WeightRow {
  const uint8_t* bytes;
  bool exists;
};

// Row `index` of 16 of a tile. Gated products interleave the two weights: their sums meet in one block.
__device__ WeightRow RowOfTile(const StreamParams& params, int tile, int index) {
  int weight, row;
  if (params.output == Output::kGated) {
    weight = index / 8;
    row = tile * 8 + index % 8;
  } else {
    weight = (tile >= params.first_tile[1]) + (tile >= params.first_tile[2]);
    row = (tile - params.first_tile[weight]) * kTileOutputs + index;
  }
  const bool exists = tile < params.num_tiles && row < params.weight_rows[weight];
  return {params.weights[weight] + (exists ? static_cast<int64_t>(row) * params.columns * 2 : 0), exists};
}

// Asks for the chunks of a warp in order, through all tiles of its block.
template <Input kInput, int kFragments>
class ChunkStream {
 public:
  __device__ ChunkStream(const StreamParams& params, uint32_t ring)
      : params_(params),
        ring_(ring + threadIdx.x % kWarpThreads * kLaneBytes),
        num_warps_(static_cast<int>(blockDim.x) / kWarpThreads),
        warp_(static_cast<int>(threadIdx.x) / kWarpThreads),
        group_(threadIdx.x % kWarpThreads / 4),
        first_column_(threadIdx.x % 4 * 8),
        column_(warp_ * kChunkColumns + first_column_),
        tile_(static_cast<int>(blockIdx.x) * kTilesPerStep<kInput>) {
    FindRows();
  }

  __device__ void AskForWeights(int stage) {
    if (!HasChunk()) return;
    const uint32_t to = ring_ + stage * kStageBytes<kInput, kFragments>;
    const bool inside = column_ < params_.columns;
    const int64_t offset = inside ? 2 * static_cast<int64_t>(column_) : 0;
#pragma unroll
    for (int i = 0; i < 2 * kTilesPerStep<kInput>; ++i) {
      CopyAsync(to + i * kSlotBytes, rows_[i].bytes + offset, inside && rows_[i].exists);
    }
  }

  __device__ void AskForX(int stage, int column) {
    const uint32_t to = ring_ + stage * kStageBytes<kInput, kFragments> + 2 * kTilesPerStep<kInput> * kSlotBytes;
#pragma unroll
    for (int i = 0; i < kFragments; ++i) {
      const int row = i * kRowsPerFragment + group_;
      const bool inside = column < params_.columns && row < params_.num_rows;
      const int64_t offset = inside ? (static_cast<int64_t>(row) * params_.columns + column) * 2 : 0;
      CopyAsync(to + i * kSlotBytes, static_cast<const uint8_t*>(params_.x) + offset, inside);
    }
  }

  // The whole next chunk.
  __device__ void Ask(int stage) {
    AskForWeights(stage);
    if constexpr (kInput == Input::kStreamed) {
      if (HasChunk()) AskForX(stage, column_);
    }
    Advance();
  }

  __device__ void Advance() {
    if (!HasChunk()) return;
    column_ += num_warps_ * kChunkColumns;
    if (column_ - first_column_ < params_.columns) return;
    column_ = warp_ * kChunkColumns + first_column_;
    tile_ += static_cast<int>(gridDim.x) * kTilesPerStep<kInput>;
    FindRows();
  }

  __device__ int column() const { return column_; }
  __device__ bool HasChunk() const { return tile_ < params_.num_tiles && warp_ * kChunkColumns < params_.columns; }

 private:
  __device__ void FindRows() {
#pragma unroll
    for (int i = 0; i < 2 * kTilesPerStep<kInput>; ++i) {
      rows_[i] = RowOfTile(params_, tile_ + i / 2, i % 2 * 8 + group_);
    }
  }

  const StreamParams& params_;
  const uint32_t ring_;
  const int num_warps_, warp_, group_, first_column_;
  int column_;  // the lane's first of the next chunk
  int tile_;
  WeightRow rows_[2 * kTilesPerStep<kInput>];
};

// Puts the rows of x into shared memory as bf16, zeros after the last column. Normed rows are only weighted here: the
// factor that is one for a whole row is applied to its sums. The warps' sums of squares go to `squares`.
template <Input kInput>
__device__ void StageRows(const StreamParams& params, uint8_t* x_shared, float (*squares)[kMaxWarps]) {
  const int padded = (params.columns + kChunkColumns - 1) / kChunkColumns * kChunkColumns;
  for (int row = 0; row < params.num_rows; ++row) {
    int64_t source = row;
    if constexpr (kInput == Input::kNormed) source = params.rows == nullptr ? row : params.rows[row];
    const int64_t first = source * params.columns;
    float sum = 0;
    for (int column = static_cast<int>(threadIdx.x) * 8; column < padded; column += static_cast<int>(blockDim.x) * 8) {
      uint4 packed = {0, 0, 0, 0};
      if (column < params.columns) {
        if constexpr (kInput == Input::kShared) {
          packed = *reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(params.x) + first + column);
        } else {
          const auto* x = reinterpret_cast<const float4*>(static_cast<const float*>(params.x) + first + column);
          const auto* weight = reinterpret_cast<const float4*>(params.norm_weight + column);
          const float4 a = x[0], b = x[1], c = weight[0], d = weight[1];
          sum += a.x * a.x + a.y * a.y + a.z * a.z + a.w * a.w + b.x * b.x + b.y * b.y + b.z * b.z + b.w * b.w;
          packed = {PackBf16(a.x * c.x, a.y * c.y), PackBf16(a.z * c.z, a.w * c.w), PackBf16(b.x * d.x, b.y * d.y),
                    PackBf16(b.z * d.z, b.w * d.w)};
        }
      }
      *reinterpret_cast<uint4*>(x_shared + row * params.x_stride_bytes + column * 2) = packed;
    }
    if constexpr (kInput == Input::kNormed) {
      sum = WarpSum(sum);
      if (threadIdx.x % kWarpThreads == 0) squares[row][threadIdx.x / kWarpThreads] = sum;
    }
  }
}

__device__ float NormFactor(const StreamParams& params, const float* squares) {
  float sum = 0;
  for (unsigned warp = 0; warp < blockDim.x / kWarpThreads; ++warp) sum += squares[warp];
  return 1.0f / sqrtf(sum / static_cast<float>(params.columns) + params.epsilon);
}

// Adds the products of one chunk. Even and odd halves of a chunk have sums of their own: shorter chains.
template <Input kInput, int kFragments>
__device__ void MultiplyChunk(const StreamParams& params, uint32_t slot, uint32_t x_shared, int column,
                              float (&sums)[2][kTilesPerStep<kInput>][kFragments][4]) {
  constexpr int kTiles = kTilesPerStep<kInput>;
  const int group = threadIdx.x % kWarpThreads / 4;
  uint4 x[kFragments];
#pragma unroll
  for (int i = 0; i < kFragments; ++i) {
    if constexpr (kInput == Input::kStreamed) {
      x[i] = LoadShared(slot + (2 * kTiles + i) * kSlotBytes);
    } else {
      const int row = i * kRowsPerFragment + group;
      x[i] = {0, 0, 0, 0};
      if (row < params.num_rows) x[i] = LoadShared(x_shared + row * params.x_stride_bytes + column * 2);
    }
  }
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    const uint4 upper = LoadShared(slot + 2 * tile * kSlotBytes);
    const uint4 lower = LoadShared(slot + (2 * tile + 1) * kSlotBytes);
#pragma unroll
    for (int i = 0; i < kFragments; ++i) {
      MultiplyAdd(sums[0][tile][i], upper.x, lower.x, upper.y, lower.y, x[i].x, x[i].y);
      MultiplyAdd(sums[1][tile][i], upper.z, lower.z, upper.w, lower.w, x[i].z, x[i].w);
    }
  }
}

// partials: [warp][row][16 outputs]
template <int kFragments>
__device__ void StorePartials(const StreamParams& params, const float (&even)[kFragments][4],
                              const float (&odd)[kFragments][4], float* partials) {
  const int lane = threadIdx.x % kWarpThreads, group = lane / 4;
  float* own = partials + threadIdx.x / kWarpThreads * params.num_rows * kTileOutputs;
#pragma unroll
  for (int i = 0; i < kFragments; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int row = i * kRowsPerFragment + lane % 4 * 2 + j % 2;
      if (row < params.num_rows) own[row * kTileOutputs + j / 2 * 8 + group] = even[i][j] + odd[i][j];
    }
  }
}

__device__ float AddPartials(const StreamParams& params, const float* partials, int row, int output) {
  const int num_warps = static_cast<int>(blockDim.x) / kWarpThreads;
  float sum = 0;
  for (int warp = 0; warp < num_warps; ++warp) {
    sum += partials[(warp * params.num_rows + row) * kTileOutputs + output];
  }
  return sum;
}

// One output of a tile for the thread that writes it.
struct OutputPlace {
  bool exists;
  int row;
  int index;  // in the tile
  int64_t element;
};

__device__ OutputPlace PlaceOfThread(const StreamParams& params, int tile) {
  const int width = params.output == Output::kGated ? kTileOutputs / 2 : kTileOutputs;
  OutputPlace place{};
  place.row = static_cast<int>(threadIdx.x) / width;
  place.index = static_cast<int>(threadIdx.x) % width;
  int weight = 0;
  if (params.output != Output::kGated) weight = (tile >= params.first_tile[1]) + (tile >= params.first_tile[2]);
  const int output = (tile - params.first_tile[weight]) * width + place.index;
  place.exists = place.row < params.num_rows && tile < params.num_tiles && output < params.weight_rows[weight];
  place.element = place.row * params.out_stride + params.first_output[weight] + output;
  return place;
}

__device__ float OldValue(const StreamParams& params, const OutputPlace& place) {
  if (params.output != Output::kAdded || !place.exists) return 0;
  return static_cast<const float*>(params.out)[place.element];
}

__device__ void WriteOutput(const StreamParams& params, const OutputPlace& place, const float* partials, float factor,
                            float old) {
  const float sum = AddPartials(params, partials, place.row, place.index) * factor;
  switch (params.output) {
    case Output::kBf16:
      static_cast<__nv_bfloat16*>(params.out)[place.element] = __float2bfloat16_rn(sum);
      return;
    case Output::kGated: {
      const float up = AddPartials(params, partials, place.row, place.index + 8) * factor;
      static_cast<__nv_bfloat16*>(params.out)[place.element] = __float2bfloat16_rn(sum / (1.0f + __expf(-sum)) * up);
      return;
    }
    case Output::kAdded:
    case Output::kFloat32:
      static_cast<float*>(params.out)[place.element] = old + sum;
      return;
  }
}

// Fills the ring, all but one stage: weights before the previous kernel has ended, rows of x after it.
template <Input kInput, int kFragments>
__device__ void FillRing(ChunkStream<kInput, kFragments>& stream, int columns) {
  constexpr int kAhead = kStages<kInput, kFragments> - 1;
  int x_columns[kAhead];
#pragma unroll
  for (int stage = 0; stage < kAhead; ++stage) {
    stream.AskForWeights(stage);
    x_columns[stage] = stream.HasChunk() ? stream.column() : columns;
    stream.Advance();
    if constexpr (kInput != Input::kStreamed) CommitCopies();
  }
  WaitForPrevious();
  if constexpr (kInput == Input::kStreamed) {
#pragma unroll
    for (int stage = 0; stage < kAhead; ++stage) stream.AskForX(stage, x_columns[stage]);
#pragma unroll
    for (int stage = 0; stage < kAhead; ++stage) CommitCopies();
  }
}

template <Input kInput, int kFragments>
__global__ void __launch_bounds__(kMaxWarps* kWarpThreads, kInput != Input::kStreamed && kFragments == 1 ? 2 : 1)
    StreamLinearKernel(const __grid_constant__ StreamParams params) {
  constexpr int kTiles = kTilesPerStep<kInput>;
  constexpr int kAhead = kStages<kInput, kFragments> - 1;
  constexpr int kStage = kStageBytes<kInput, kFragments>;
  extern __shared__ __align__(128) uint8_t shared[];
  __shared__ float squares[kMaxStreamedRows][kMaxWarps];
  const int num_warps = static_cast<int>(blockDim.x) / kWarpThreads;
  const int warp = static_cast<int>(threadIdx.x) / kWarpThreads, lane = threadIdx.x % kWarpThreads;
  uint8_t* x_rows = shared + num_warps * (kAhead + 1) * kStage;
  auto* partials = reinterpret_cast<float*>(x_rows + (kInput == Input::kStreamed ? 0 : XBytes(params)));
  const int partials_size = num_warps * params.num_rows * kTileOutputs;
  const uint32_t ring = SharedAddress(shared) + warp * (kAhead + 1) * kStage;

  LetNextStart();
  ChunkStream<kInput, kFragments> stream(params, ring);
  FillRing(stream, params.columns);
  if constexpr (kInput != Input::kStreamed) StageRows<kInput>(params, x_rows, squares);
  __syncthreads();
  float factor = 1;
  if constexpr (kInput == Input::kNormed) {
    const OutputPlace place = PlaceOfThread(params, 0);
    if (place.row < params.num_rows) factor = NormFactor(params, squares[place.row]);
  }
  const int step = static_cast<int>(gridDim.x) * kTiles;
  int stage = 0, parity = 0;
  for (int tile = static_cast<int>(blockIdx.x) * kTiles; tile < params.num_tiles; tile += step) {
    OutputPlace places[kTiles];
    float old[kTiles];
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      places[i] = PlaceOfThread(params, tile + i);
      old[i] = OldValue(params, places[i]);
    }
    float sums[2][kTiles][kFragments][4] = {};
    for (int column = warp * kChunkColumns; column < params.columns; column += num_warps * kChunkColumns) {
      WaitForCopies<kAhead - 1>();
      stream.Ask(stage == 0 ? kAhead : stage - 1);
      CommitCopies();
      MultiplyChunk<kInput, kFragments>(params, ring + stage * kStage + lane * kLaneBytes, SharedAddress(x_rows),
                                        column + lane % 4 * 8, sums);
      stage = stage == kAhead ? 0 : stage + 1;
    }
#pragma unroll
    for (int i = 0; i < kTiles; ++i, parity ^= 1) {
      float* const own = partials + parity * partials_size;
      StorePartials<kFragments>(params, sums[0][i], sums[1][i], own);
      __syncthreads();
      if (places[i].exists) WriteOutput(params, places[i], own, factor, old[i]);
    }
  }
}

// Warps follow from the weights' shape: they are part of the order of sums.
int WarpsFor(int64_t columns) { return columns >= 2048 ? kMaxWarps : kMaxWarps / 2; }

int64_t RowStrideBytes(int64_t columns) {
  const int64_t bytes = (columns + kChunkColumns - 1) / kChunkColumns * kChunkColumns * 2;
  return bytes % 128 == 0 ? bytes + 64 : bytes;
}

template <Input kInput, int kFragments>
size_t SharedBytes(const StreamParams& params) {
  const int num_warps = WarpsFor(params.columns);
  const int64_t rows = kInput == Input::kStreamed ? 0 : XBytes(params);
  const int64_t partials = 2 * int64_t{num_warps} * params.num_rows * kTileOutputs * 4;
  return static_cast<size_t>(num_warps * kStages<kInput, kFragments> * kStageBytes<kInput, kFragments> + rows +
                             partials);
}

constexpr int kStaticSharedBytes = kMaxStreamedRows * kMaxWarps * 4;

template <Input kInput, int kFragments>
bool Fits(const StreamParams& params) {
  return static_cast<int64_t>(SharedBytes<kInput, kFragments>(params)) + kStaticSharedBytes <=
         CurrentDeviceTraits().max_shared_bytes;
}

template <Input kInput, int kFragments>
cudaError_t Launch(const StreamParams& params, cudaStream_t stream) {
  static const cudaError_t attribute =
      cudaFuncSetAttribute(StreamLinearKernel<kInput, kFragments>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           CurrentDeviceTraits().max_shared_bytes - kStaticSharedBytes);
  if (attribute != cudaSuccess) return attribute;
  if (!Fits<kInput, kFragments>(params)) return cudaErrorInvalidValue;
  // Short sums leave room for two blocks on a multiprocessor.
  const int steps = (params.num_tiles + kTilesPerStep<kInput> - 1) / kTilesPerStep<kInput>;
  const int places = CurrentDeviceTraits().num_multiprocessors * (WarpsFor(params.columns) == kMaxWarps ? 1 : 2);
  const auto grid = static_cast<unsigned>(steps < places ? steps : places);
  return LaunchKernel(StreamLinearKernel<kInput, kFragments>, dim3(grid), dim3(WarpsFor(params.columns) * kWarpThreads),
                      SharedBytes<kInput, kFragments>(params), stream, params);
}

template <Input kInput>
cudaError_t LaunchRows(const StreamParams& params, cudaStream_t stream) {
  return params.num_rows <= kRowsPerFragment ? Launch<kInput, 1>(params, stream) : Launch<kInput, 2>(params, stream);
}

cudaError_t LaunchBf16Rows(const StreamParams& params, cudaStream_t stream) {
  const bool fits =
      params.num_rows <= kRowsPerFragment ? Fits<Input::kShared, 1>(params) : Fits<Input::kShared, 2>(params);
  return fits ? LaunchRows<Input::kShared>(params, stream) : LaunchRows<Input::kStreamed>(params, stream);
}

// The weights' part of the parameters; false where they are not for this kernel.
bool TakeWeights(const WeightView* weights, int64_t num_weights, int64_t num_rows, Output output,
                 StreamParams* params) {
  const int64_t columns = weights[0].columns;
  if (num_rows > kMaxStreamedRows || columns % 8 != 0 || columns == 0) return false;
  int64_t tiles = 0, outputs = 0;
  for (int64_t i = 0; i < kMaxJoinedWeights; ++i) {
    params->first_tile[i] = i < num_weights ? static_cast<int>(tiles) : std::numeric_limits<int>::max();
    params->first_output[i] = static_cast<int>(outputs);
    if (i >= num_weights) continue;
    if (weights[i].type != WeightType::kBf16 || weights[i].columns != columns) return false;
    params->weights[i] = static_cast<const uint8_t*>(weights[i].data);
    params->weight_rows[i] = static_cast<int>(weights[i].rows);
    outputs += weights[i].rows;
    tiles += (weights[i].rows + kTileOutputs - 1) / kTileOutputs;
  }
  if (output == Output::kGated) {
    if (weights[0].rows != weights[1].rows) return false;
    outputs = weights[0].rows;
    tiles = (outputs + kTileOutputs / 2 - 1) / (kTileOutputs / 2);
  }
  params->columns = static_cast<int>(columns);
  params->num_rows = static_cast<int>(num_rows);
  params->num_tiles = static_cast<int>(tiles);
  params->x_stride_bytes = static_cast<int>(RowStrideBytes(columns));
  params->output = output;
  params->out_stride = outputs;
  return true;
}

StreamParams ParamsOf(const NormedRows& rows, void* out) {
  return {.x = rows.hidden, .norm_weight = rows.weight, .rows = rows.rows, .epsilon = rows.epsilon, .out = out};
}

}  // namespace

cudaError_t LaunchNormLinear(const NormLinearArgs& args, cudaStream_t stream) {
  if (args.num_rows == 0) return cudaSuccess;
  StreamParams params = ParamsOf(args.input, args.y);
  if (!TakeWeights(args.weights, args.num_weights, args.num_rows, Output::kBf16, &params)) return cudaErrorInvalidValue;
  return LaunchRows<Input::kNormed>(params, stream);
}

cudaError_t LaunchNormGateUp(const NormGateUpArgs& args, cudaStream_t stream) {
  if (args.num_rows == 0) return cudaSuccess;
  StreamParams params = ParamsOf(args.input, args.inner);
  const WeightView weights[] = {args.gate, args.up};
  if (!TakeWeights(weights, 2, args.num_rows, Output::kGated, &params)) return cudaErrorInvalidValue;
  return LaunchRows<Input::kNormed>(params, stream);
}

cudaError_t LaunchAddLinear(const AddLinearArgs& args, cudaStream_t stream) {
  if (args.num_rows == 0) return cudaSuccess;
  StreamParams params = {.x = args.x, .out = args.hidden};
  if (!TakeWeights(&args.weight, 1, args.num_rows, Output::kAdded, &params)) return cudaErrorInvalidValue;
  return LaunchBf16Rows(params, stream);
}

cudaError_t LaunchLogits(const LogitsArgs& args, cudaStream_t stream) {
  if (args.num_rows == 0) return cudaSuccess;
  const NormedRows input = {
      .hidden = args.hidden, .weight = args.norm_weight, .epsilon = args.epsilon, .rows = args.rows};
  StreamParams params = ParamsOf(input, args.logits);
  if (!TakeWeights(&args.weight, 1, args.num_rows, Output::kFloat32, &params)) return cudaErrorInvalidValue;
  return LaunchRows<Input::kNormed>(params, stream);
}

}  // namespace farspan::kernels::cuda
