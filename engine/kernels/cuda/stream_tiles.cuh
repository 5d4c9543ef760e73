// SPDX-License-Identifier: Apache-2.0
// The kernel that streams tiles of quantised weights past few rows, and its launch. As in stream_kernel.cuh each warp
// has a ring of stages, filled before the previous kernel has ended and several steps ahead through all tiles of its
// block. A unit is a tile of 16 outputs, or a gate's and its partner's; warps split a unit's columns, or where those
// are few, several units are under way at a time.
#pragma once

#include "engine/kernels/cuda/tile_products.cuh"

namespace farspan::kernels::cuda {

// Asks for the steps of a warp, in the order in which they are multiplied: by batches of units, parts of columns that
// are in shared memory together, units, the unit's tiles, columns.
template <typename T>
class TileStream {
 public:
  __device__ TileStream(const StreamParams& params, uint32_t ring)
      : params_(params),
        ring_(ring + Lane() * kVectorBytes),
        unit_step_(static_cast<int>(gridDim.x) * RowWarps(params)),
        first_column_((Warp() & ((1 << params.column_bits) - 1)) * kStepColumns),
        column_(first_column_),
        unit_(static_cast<int>(blockIdx.x) * RowWarps(params) + (Warp() >> params.column_bits)),
        batch_unit_(unit_) {
    if (column_ >= params.columns) unit_ = batch_unit_ = params.num_units;  // nothing at all
    Seek();
  }

  __device__ bool HasStep() const { return unit_ < params_.num_units; }

  // The next step, if there is one.
  __device__ void Ask(int stage) {
    if (!HasStep()) return;
    const uint8_t* from = tile_ + column_ / kTileColumns * T::kTileBytes;
    const int left = static_cast<int>((params_.columns - column_) / kTileColumns) * T::kTileBytes;
#pragma unroll
    for (int i = 0; i < T::kStageBytes; i += kWarpThreads * kVectorBytes) {
      const int at = i + Lane() * kVectorBytes;
      if (at < T::kStageBytes) CopyAsync(ring_ + stage * T::kStageBytes + i, from + i, at < left);
    }
    Advance();
  }

  // Of units side by side.
  __device__ static int RowWarps(const StreamParams& params) { return kTileWarps >> params.column_bits; }
  // Between the warp's units.
  __device__ int unit_step() const { return unit_step_; }
  __device__ int first_column() const { return first_column_; }

 private:
  __device__ void Advance() {
    column_ += kStepColumns << params_.column_bits;
    if (column_ < params_.columns && column_ < part_ + params_.staged_columns) return;
    if (++member_ == params_.unit_tiles) {
      member_ = 0;
      unit_ += unit_step_;
      if (++nth_ == params_.batch_steps || unit_ >= params_.num_units) NextPart();
    }
    column_ = part_ + first_column_;
    Seek();
  }

  __device__ void NextPart() {
    part_ += params_.staged_columns;
    if (part_ + first_column_ >= params_.columns) {
      part_ = 0;
      batch_unit_ += params_.batch_steps * unit_step_;
    }
    nth_ = 0;
    unit_ = batch_unit_;
  }

  __device__ void Seek() {
    if (!HasStep()) return;
    const int weight = params_.unit_tiles == 2 ? member_ : WeightOfTile(params_, unit_);
    const int index = params_.unit_tiles == 2 ? unit_ : unit_ - params_.first_tile[weight];
    const int64_t strip_bytes = static_cast<int64_t>(params_.columns / kTileColumns) * T::kTileBytes;
    tile_ = params_.weights[weight] + index * strip_bytes + Lane() * kVectorBytes;
  }

  const StreamParams& params_;
  const uint32_t ring_;
  const int unit_step_, first_column_;
  int column_, part_ = 0, member_ = 0;
  int unit_, batch_unit_;  // the next step's, and the first of its batch
  int nth_ = 0;            // of the batch
  const uint8_t* tile_ = nullptr;
};

// Output `index` of a batch.
__device__ inline OutputPlace PlaceInBatch(const StreamParams& params, int batch, int index) {
  const int row_bits = kTileWarpBits - params.column_bits;
  const int nth = Quotient(index / kTileOutputs, params.per_row), round = nth >> row_bits;
  const int block = (batch + round) * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x);
  const int unit = (block << row_bits) + (nth & ((1 << row_bits) - 1));
  const int weight = WeightOfTile(params, unit);
  OutputPlace place{};
  place.slot = nth * params.unit_tiles;
  place.row = index / kTileOutputs - nth * params.num_rows;
  place.index = index % kTileOutputs;
  const int output = (unit - params.first_tile[weight]) * kTileOutputs + place.index;
  place.exists = round < params.batch_steps && unit < params.num_units;
  if (params.output == StreamOutput::kProjected) {
    PlaceInRow<true>(params, params.first_output[weight] + output, &place);
  } else {
    PlaceInRow<false>(params, params.first_output[weight] + output, &place);
  }
  return place;
}

__device__ inline BeforeOutput LoadTileBefore(const StreamParams& params, const OutputPlace& place) {
  return params.output == StreamOutput::kProjected ? LoadBefore<true>(params, place) : LoadBefore<false>(params, place);
}

__device__ inline float AddTilePartials(const StreamParams& params, const float* partials, const OutputPlace& place,
                                        int member, int index_bits) {
  const float* from = partials +
                      (((place.slot + member) << params.column_bits) * params.num_rows + place.row) * kTileOutputs +
                      (place.index ^ index_bits);
  float sum = 0;
#pragma unroll 8
  for (int warp = 0; warp < 1 << params.column_bits; ++warp) sum += from[warp * params.num_rows * kTileOutputs];
  return sum;
}

// A warp's sums of a tile between parts of its columns: partial sums are [slot][column warp][row][16 outputs].
template <typename T>
class TileSums {
 public:
  __device__ TileSums(const StreamParams& params, int slot, float* partials) : num_rows_(params.num_rows) {
    const int warp = Warp() & ((1 << params.column_bits) - 1);
    own_ = partials + ((slot << params.column_bits) + warp) * num_rows_ * kTileOutputs + Lane() / 4;
  }
  __device__ void Resume() {
    ForEach([](float& sum, float& stored) { sum = stored; });
  }
  __device__ void Store() {
    ForEach([](float& sum, float& stored) { stored = sum; });
  }

  float sums[4] = {};

 private:
  template <typename Body>
  __device__ void ForEach(const Body& body) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int row = Lane() % 4 * 2 + j % 2;
      if (row < T::kRows && row < num_rows_) body(sums[j], own_[row * kTileOutputs + j / 2 * 8]);
    }
  }

  const int num_rows_;
  float* own_;
};

// Shared memory after the ring.
template <typename T>
struct TileMemory {
  uint32_t zeros;
  TileRowsPlace rows;
  float* partials;

  __device__ TileMemory(const StreamParams& params, uint8_t* shared) {
    constexpr int kRingBytes = kTileWarps * T::kStages * T::kStageBytes;
    zeros = SharedAddress(shared) + kRingBytes + 64;
    rows.x = shared + kRingBytes + kZeroBytes;
    rows.sums = reinterpret_cast<float*>(rows.x + XBytes(params));
    rows.squares = reinterpret_cast<float(*)[kMaxSegments]>(rows.sums + SumsSize(params));
    partials = reinterpret_cast<float*>(rows.squares + params.num_rows);
  }
  __host__ __device__ static int SumsSize(const StreamParams& params) {
    return params.staged_columns / T::kTraits.group_columns * T::kRows;
  }
  // Floats of one batch's partial sums: all warps' for each of their units.
  __host__ __device__ static int BufferSize(const StreamParams& params) {
    return params.batch_steps * params.unit_tiles * kTileWarps * params.num_rows * kTileOutputs;
  }
  static int64_t Bytes(const StreamParams& params) {
    return kTileWarps * T::kStages * T::kStageBytes + kZeroBytes + XBytes(params) + SumsSize(params) * 4 +
           params.num_rows * kMaxSegments * 4 + int64_t{params.buffers} * BufferSize(params) * 4;
  }
};

// The outputs of a batch; `own_place` is the thread's first.
__device__ inline void WriteBatch(const StreamParams& params, int batch, const float* partials,
                                  const TileRowsPlace& rows, const OutputPlace& own_place,
                                  const BeforeOutput& own_before) {
  const int row_warps = kTileWarps >> params.column_bits;
  const int outputs = params.batch_steps * row_warps * kTileOutputs * params.num_rows;
  const bool gated = params.unit_tiles == 2, projected = params.output == StreamOutput::kProjected;
  for (int i = static_cast<int>(threadIdx.x); i < outputs; i += kTileThreads) {
    const OutputPlace place = i < kTileThreads ? own_place : PlaceInBatch(params, batch, i);
    if (!place.exists) continue;
    const float factor =
        (params.norm_weight == nullptr ? 1.0f : NormFactor(params, rows.squares[place.row])) * kUnscaleSums;
    const float sum = AddTilePartials(params, partials, place, 0, 0) * factor;
    float other = 0;
    if (gated || projected) {
      other = AddTilePartials(params, partials, place, gated ? 1 : 0, projected ? 1 : 0) * factor;
    }
    const BeforeOutput before = i < kTileThreads ? own_before : LoadTileBefore(params, place);
    if (projected) {
      WriteSum<true>(params, place, sum, other, before);
    } else {
      WriteSum<false>(params, place, sum, other, before);
    }
  }
}

// The warp's products of a unit in the columns from `part` on that are in shared memory.
template <typename T>
__device__ __forceinline__ void MultiplyUnit(const StreamParams& params, const TileOperands<T>& operands, uint32_t ring,
                                             int unit_slot, int part, float* partials, TileStream<T>* stream,
                                             int* stage) {
  const int part_end = part + params.staged_columns < params.columns ? part + params.staged_columns : params.columns;
  for (int member = 0; member < params.unit_tiles; ++member) {
    TileSums<T> tile(params, unit_slot * params.unit_tiles + member, partials);
    if (part > 0) tile.Resume();
    for (int column = part + stream->first_column(); column < part_end; column += kStepColumns << params.column_bits) {
      WaitForCopies<T::kStages - 1>();
      __syncwarp();
      MultiplyStep<T>(operands, ring + *stage * T::kStageBytes, column - part, tile.sums);
      __syncwarp();
      stream->Ask(*stage);
      CommitCopies();
      *stage = *stage == T::kStages - 1 ? 0 : *stage + 1;
    }
    tile.Store();
  }
}

template <typename T>
__global__ void __launch_bounds__(kTileThreads, 1) TileKernel(const __grid_constant__ StreamParams params) {
  extern __shared__ __align__(128) uint8_t shared[];
  const TileMemory<T> memory(params, shared);
  const uint32_t ring = SharedAddress(shared) + Warp() * T::kStages * T::kStageBytes;
  const int row_warps = kTileWarps >> params.column_bits;

  LetNextStart();
  if (params.norm_weight != nullptr) PrefetchNormWeights(params);
  TileStream<T> stream(params, ring);
#pragma unroll 1
  for (int stage = 0; stage < T::kStages; ++stage) {
    stream.Ask(stage);
    CommitCopies();
  }
  for (int at = static_cast<int>(threadIdx.x); at < kZeroBytes / 4; at += kTileThreads) {
    reinterpret_cast<uint32_t*>(shared + kTileWarps * T::kStages * T::kStageBytes)[at] = 0;
  }
  const TileOperands<T> operands =
      OperandsOfLane<T>(params, SharedAddress(memory.rows.x), SharedAddress(memory.rows.sums), memory.zeros);
  // What can be known before the previous kernel has ended is: the first run of code is slow.
  OutputPlace own_place = PlaceInBatch(params, 0, static_cast<int>(threadIdx.x));
  WaitForPrevious();
  BeforeOutput own_before = LoadTileBefore(params, own_place);
  int staged = -1;
  const int first_unit = static_cast<int>(blockIdx.x) * row_warps + (Warp() >> params.column_bits);
  int stage = 0, parity = 0;
  for (int batch = 0;
       (batch * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x)) * row_warps < params.num_units;
       batch += params.batch_steps) {
    if (batch > 0) {
      own_place = PlaceInBatch(params, batch, static_cast<int>(threadIdx.x));
      own_before = LoadTileBefore(params, own_place);
    }
    float* const partials = memory.partials + parity * TileMemory<T>::BufferSize(params);
    for (int part = 0; part < params.columns; part += params.staged_columns) {
      if (part != staged) {
        if (staged >= 0) __syncthreads();
        StageTileRows<T::kType, T::kRows>(params, part, memory.rows);
        __syncthreads();
        staged = part;
      }
      int unit = first_unit + batch * stream.unit_step();
      for (int nth = 0; nth < params.batch_steps && unit < params.num_units; ++nth, unit += stream.unit_step()) {
        const int unit_slot = nth * row_warps + (Warp() >> params.column_bits);
        MultiplyUnit<T>(params, operands, ring, unit_slot, part, partials, &stream, &stage);
      }
    }
    __syncthreads();
    WriteBatch(params, batch, partials, memory.rows, own_place, own_before);
    parity = params.buffers - 1 - parity;
    if (params.buffers == 1) __syncthreads();
  }
}

// 2 to it warps split a unit's columns: as many as share them evenly, or more where there are few units. It follows
// from the weights' shape and the device alone, since it is part of the order of sums.
inline int ColumnBits(int64_t columns, int64_t num_units) {
  const int64_t steps = (columns + kStepColumns - 1) / kStepColumns;
  int bits = kTileWarpBits;
  while (bits > 0 && ((steps + (1 << bits) - 1) >> bits << bits) * 8 > steps * 9) --bits;
  const int64_t warps = int64_t{CurrentDeviceTraits().num_multiprocessors} * kTileWarps;
  while (num_units << bits < warps && 1 << bits < steps && bits < kTileWarpBits) ++bits;
  return bits;
}

inline uint32_t InverseOf(int number) {
  return number == 1 ? 0
                     : static_cast<uint32_t>(((uint64_t{1} << 32) + static_cast<uint64_t>(number) - 1) /
                                             static_cast<uint64_t>(number));
}

// Chooses how much of x is in shared memory at a time and how sums are exchanged. False where nothing fits.
template <typename T>
bool ArrangeTiles(StreamParams* params) {
  if (params->norm_weight != nullptr && params->columns > kMaxSegments * kSegmentColumns) return false;
  const int padded = (params->columns + kStepColumns - 1) / kStepColumns * kStepColumns;
  params->unit_tiles = params->output == StreamOutput::kGated ? 2 : 1;
  params->num_units = params->num_tiles / params->unit_tiles;
  params->column_bits = ColumnBits(params->columns, params->num_units);
  params->per_row = InverseOf(params->num_rows);
  const int row_warps = kTileWarps >> params->column_bits;
  const int rounds = (params->num_units + row_warps - 1) / row_warps;
  const int blocks = CurrentDeviceTraits().num_multiprocessors;
  const int own_rounds = (rounds + blocks - 1) / blocks;
  for (const int staged : {padded, kPartColumns}) {
    params->staged_columns = staged < padded ? staged : padded;
    params->x_stride_bytes = params->staged_columns * 2 + 64;
    params->per_staged_row = InverseOf(params->staged_columns / 8);
    for (params->buffers = own_rounds > 1 ? 2 : 1; params->buffers > 0; --params->buffers) {
      const int most = kTileThreads / (kTileOutputs * params->num_rows * row_warps);
      for (params->batch_steps = most < 1            ? 1
                                 : most < own_rounds ? most
                                                     : own_rounds;
           params->batch_steps > 0; params->batch_steps /= 2) {
        if (TileMemory<T>::Bytes(*params) <= CurrentDeviceTraits().max_shared_bytes) return true;
      }
    }
  }
  return false;
}

template <typename T>
cudaError_t LaunchTiles(StreamParams params, cudaStream_t stream) {
  const auto kernel = TileKernel<T>;
  static const cudaError_t attributes = [kernel] {
    const int bytes = CurrentDeviceTraits().max_shared_bytes;
    const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (error != cudaSuccess) return error;
    // One split of the memory for all kernels of the kind: to change it, a multiprocessor must fall idle.
    return cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
  }();
  if (attributes != cudaSuccess) return attributes;
  if (!ArrangeTiles<T>(&params)) return cudaErrorInvalidValue;
  const int row_warps = kTileWarps >> params.column_bits;
  const int rounds = (params.num_units + row_warps - 1) / row_warps;
  const int blocks = CurrentDeviceTraits().num_multiprocessors;
  // One large block a multiprocessor: were there room for two, both could start on one that falls idle first, and
  // another would have none.
  const int64_t bytes = TileMemory<T>::Bytes(params);
  const int64_t alone = CurrentDeviceTraits().max_shared_bytes / 2 + 1024;
  return LaunchKernel(kernel, dim3(static_cast<unsigned>(rounds < blocks ? rounds : blocks)), dim3(kTileThreads),
                      static_cast<size_t>(bytes < alone ? alone : bytes), stream, params);
}

// The rows from `first` on.
inline StreamParams RowsFrom(const StreamParams& params, int first) {
  StreamParams rest = params;
  rest.num_rows -= first;
  const int64_t elements = int64_t{first} * params.columns;
  if (params.rows != nullptr) {
    rest.rows += first;
  } else if (params.norm_weight != nullptr) {
    rest.x = static_cast<const float*>(params.x) + elements;
  } else {
    rest.x = static_cast<const uint16_t*>(params.x) + elements;
  }
  const bool is_float = params.output == StreamOutput::kAdded || params.output == StreamOutput::kFloat32;
  int64_t out_row = params.out_stride;
  if (params.output == StreamOutput::kProjected) {
    out_row = params.num_heads * params.cache.head_dim;
    rest.cos_sin += first * params.rope_dim;
    rest.slots += first;
  }
  rest.out = static_cast<uint8_t*>(params.out) + first * out_row * (is_float ? 4 : 2);
  return rest;
}

// One result of a row whatever the launch, since the order of its sums is one.
template <WeightType kType>
cudaError_t LaunchTiledRows(const StreamParams& params, cudaStream_t stream) {
  if (params.num_rows == 1) return LaunchTiles<TileShape<kType, 1>>(params, stream);
  if (params.num_rows <= 4) return LaunchTiles<TileShape<kType, 4>>(params, stream);
  StreamParams eight = params;
  eight.num_rows = params.num_rows < 8 ? params.num_rows : 8;
  const cudaError_t error = LaunchTiles<TileShape<kType, 8>>(eight, stream);
  return error != cudaSuccess || params.num_rows <= 8 ? error : LaunchTiledRows<kType>(RowsFrom(params, 8), stream);
}

}  // namespace farspan::kernels::cuda
