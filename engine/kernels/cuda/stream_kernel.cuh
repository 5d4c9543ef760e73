// SPDX-License-Identifier: Apache-2.0
// The kernel that streams weights past few rows, and its launch; for tiles see stream_tiles.cuh. Weights come by
// cp.async through a ring of stages that each warp has for itself, several steps ahead and across tiles, so that memory
// is never idle while sums are exchanged; the ring is filled before the previous kernel has ended, since weights do not
// change.
//
// Weights is a format:
//   kStepColumns, kStageBytes  columns and bytes of one tile in a stage
//   kWarpColumns, NextColumn   where a warp's first step begins, in warps, and its next after that at a column
//   kMostBatchSteps            steps after which warps exchange sums: the more, the fewer bytes a step has
//   Place                      a warp's place in a tile: asks for the bytes of a step
//   Multiply                   adds the products of one chunk of a stage
#pragma once

#include "engine/kernels/cuda/stream_params.cuh"

namespace farspan::kernels::cuda {

// Two tiles a step where rows of x stream: each of their bytes then serves twice as many weights.
template <typename WeightsOf, StreamInput kInputOf, int kFragmentsOf, int kTilesOf, bool kProjectsOf>
struct Ring {
  using Weights = WeightsOf;
  static constexpr StreamInput kInput = kInputOf;
  static constexpr int kFragments = kFragmentsOf, kTiles = kTilesOf;
  static constexpr bool kProjects = kProjectsOf;  // whether the outputs are queries, keys and values
  static constexpr int kChunks = Weights::kStepColumns / kChunkColumns;
  static constexpr int kWeightBytes = kTiles * Weights::kStageBytes;
  static constexpr int kFragmentBytes = kWarpThreads * kVectorBytes;
  static constexpr int kXBytes = kInput == StreamInput::kStreamed ? kChunks * kFragments * kFragmentBytes : 0;
  static constexpr int kStageBytes = kWeightBytes + kXBytes;
  static constexpr int kBudgetBytes = kInput == StreamInput::kStreamed ? 12288 : kFragments == 1 ? 8192 : 4096;
  static constexpr int kStages = kBudgetBytes / kStageBytes < 8 ? kBudgetBytes / kStageBytes : 8;
};

// Asks for the steps of a warp in order, through all tiles of its block.
template <typename R>
class WeightStream {
 public:
  using Weights = typename R::Weights;

  __device__ WeightStream(const StreamParams& params, uint32_t ring)
      : params_(params),
        ring_(ring),
        column_(Warp() * Weights::kWarpColumns),
        tile_(static_cast<int>(blockIdx.x) * R::kTiles) {
    Seek();
  }

  __device__ bool HasStep() const {
    return tile_ < params_.num_tiles && Warp() * Weights::kWarpColumns < params_.columns;
  }

  __device__ void AskForWeights(int stage) {
    if (!HasStep()) return;
#pragma unroll
    for (int i = 0; i < R::kTiles; ++i) {
      places_[i].Ask(params_, ring_ + stage * R::kStageBytes + i * Weights::kStageBytes, column_);
    }
  }

  __device__ void AskForX(int stage, int step_column) {
    const int group = Lane() / 4;
#pragma unroll
    for (int chunk = 0; chunk < R::kChunks; ++chunk) {
      const int column = step_column + chunk * kChunkColumns + Lane() % 4 * 8;
#pragma unroll
      for (int i = 0; i < R::kFragments; ++i) {
        const int row = i * kRowsPerFragment + group;
        const bool inside = column < params_.columns && row < params_.num_rows;
        const int64_t offset = inside ? (static_cast<int64_t>(row) * params_.columns + column) * 2 : 0;
        CopyAsync(ring_ + stage * R::kStageBytes + R::kWeightBytes + (chunk * R::kFragments + i) * R::kFragmentBytes +
                      Lane() * kVectorBytes,
                  static_cast<const uint8_t*>(params_.x) + offset, inside);
      }
    }
  }

  // The whole next step.
  __device__ void Ask(int stage) {
    AskForWeights(stage);
    if constexpr (R::kInput == StreamInput::kStreamed) {
      if (HasStep()) AskForX(stage, column_);
    }
    Advance();
  }

  __device__ void Advance() {
    if (!HasStep()) return;
    column_ = Weights::NextColumn(column_);
    if (column_ < params_.columns) return;
    column_ = Warp() * Weights::kWarpColumns;
    tile_ += static_cast<int>(gridDim.x) * R::kTiles;
    Seek();
  }

  __device__ int column() const { return column_; }

 private:
  __device__ void Seek() {
#pragma unroll
    for (int i = 0; i < R::kTiles; ++i) places_[i].Seek(params_, tile_ + i);
  }

  const StreamParams& params_;
  const uint32_t ring_;
  int column_;  // first of the next step
  int tile_;
  typename Weights::Place places_[R::kTiles];
};

// Fills the ring with weights; `x_columns` are those of the stages.
template <typename R>
__device__ void FillRing(WeightStream<R>& stream, int columns, int (&x_columns)[R::kStages]) {
#pragma unroll
  for (int stage = 0; stage < R::kStages; ++stage) {
    stream.AskForWeights(stage);
    x_columns[stage] = stream.HasStep() ? stream.column() : columns;
    stream.Advance();
    if constexpr (R::kInput != StreamInput::kStreamed) CommitCopies();
  }
}

// And with rows of x, which the previous kernel may have written.
template <typename R>
__device__ void FillRingWithX(WeightStream<R>& stream, const int (&x_columns)[R::kStages]) {
#pragma unroll
  for (int stage = 0; stage < R::kStages; ++stage) stream.AskForX(stage, x_columns[stage]);
#pragma unroll
  for (int stage = 0; stage < R::kStages; ++stage) CommitCopies();
}

// The fragment of x for one chunk and 8 rows, `row` being the lane's; zeros beyond the last.
template <typename R>
__device__ uint4 LoadFragment(const StreamParams& params, uint32_t slot, uint32_t x_shared, int chunk, int fragment,
                              int column) {
  constexpr bool kStreamed = R::kInput == StreamInput::kStreamed;
  const int row = fragment * kRowsPerFragment + Lane() / 4, part = Lane() % 4;
  const uint32_t slots = slot + R::kWeightBytes + (chunk * R::kFragments + fragment) * R::kFragmentBytes;
  const uint32_t begin =
      kStreamed ? slots + Lane() / 4 * 4 * kVectorBytes : x_shared + row * params.x_stride_bytes + column * 2;
  if (!kStreamed && row >= params.num_rows) return {0, 0, 0, 0};
  return LoadShared(begin + part * kVectorBytes);
}

template <typename R>
__device__ void MultiplyStep(const StreamParams& params, uint32_t slot, uint32_t x_shared, int column,
                             float (&sums)[R::kTiles][2][R::kFragments][4]) {
#pragma unroll
  for (int chunk = 0; chunk < R::kChunks; ++chunk) {
    uint4 x[R::kFragments];
#pragma unroll
    for (int i = 0; i < R::kFragments; ++i) {
      x[i] = LoadFragment<R>(params, slot, x_shared, chunk, i, column + chunk * kChunkColumns);
    }
#pragma unroll
    for (int i = 0; i < R::kTiles; ++i) {
      R::Weights::template Multiply<R::kFragments>(slot + i * R::Weights::kStageBytes, chunk, x, sums[i]);
    }
  }
}

template <typename R>
__global__ void __launch_bounds__(kMaxWarps* kWarpThreads, 1)
    StreamKernel(const __grid_constant__ StreamParams params) {
  using Weights = typename R::Weights;
  extern __shared__ __align__(128) uint8_t shared[];
  uint8_t* x_rows = shared + NumWarps() * R::kStages * R::kStageBytes;
  auto* partials = reinterpret_cast<float*>(x_rows + (R::kInput == StreamInput::kStreamed ? 0 : XBytes(params)));
  const int slot_size = NumWarps() * params.num_rows * kTileOutputs;
  const int buffer_size = params.batch_steps * R::kTiles * slot_size;
  auto* squares = reinterpret_cast<float(*)[kMaxSegments]>(partials + params.buffers * buffer_size);
  const uint32_t ring = SharedAddress(shared) + Warp() * R::kStages * R::kStageBytes;

  // Where the ring holds nearly all, the next kernel's blocks would only be in the way of this one's start.
  if (NumWarps() == kMaxWarps) LetNextStart();
  if constexpr (R::kInput == StreamInput::kNormed) PrefetchNormWeights(params);
  WeightStream<R> stream(params, ring);
  int x_columns[R::kStages];
  FillRing(stream, params.columns, x_columns);
  // What can be known before the previous kernel has ended is: the first run of code is slow.
  const int step = static_cast<int>(gridDim.x) * R::kTiles, begin = static_cast<int>(blockIdx.x) * R::kTiles;
  OutputPlace place = PlaceOfThread<R::kTiles, R::kProjects>(params, begin, step);
  WaitForPrevious();
  if constexpr (R::kInput == StreamInput::kStreamed) FillRingWithX(stream, x_columns);
  if (NumWarps() < kMaxWarps) LetNextStart();
  BeforeOutput before = LoadBefore<R::kProjects>(params, place);
  if constexpr (R::kInput == StreamInput::kNormed) StageNormedRows(params, x_rows, squares);
  if constexpr (R::kInput == StreamInput::kShared) StageRows(params, x_rows);
  __syncthreads();
  float factor = 1;
  int stage = 0, parity = 0;
  for (int first = begin; first < params.num_tiles; first += params.batch_steps * step) {
    if (first != begin) {
      place = PlaceOfThread<R::kTiles, R::kProjects>(params, first, step);
      before = LoadBefore<R::kProjects>(params, place);
    }
    float* const buffer = partials + parity * buffer_size;
    for (int nth = 0; nth < params.batch_steps && first + nth * step < params.num_tiles; ++nth) {
      float sums[R::kTiles][2][R::kFragments][4] = {};
      for (int column = Warp() * Weights::kWarpColumns; column < params.columns; column = Weights::NextColumn(column)) {
        WaitForCopies<R::kStages - 1>();
        MultiplyStep<R>(params, ring + stage * R::kStageBytes, SharedAddress(x_rows), column, sums);
        stream.Ask(stage);
        CommitCopies();
        stage = stage == R::kStages - 1 ? 0 : stage + 1;
      }
#pragma unroll
      for (int i = 0; i < R::kTiles; ++i) {
        StorePartials<R::kFragments>(params, sums[i][0], sums[i][1], buffer + (nth * R::kTiles + i) * slot_size);
      }
    }
    if constexpr (R::kInput == StreamInput::kNormed) {
      if (first == begin) factor = NormFactor(params, squares[place.row]);
    }
    __syncthreads();
    const float* own = buffer + place.slot * slot_size;
    if (place.exists) WriteOutput<R::kProjects>(params, place, own, own + kTileOutputs / 2, factor, before);
    parity = params.buffers - 1 - parity;
    if (params.buffers == 1) __syncthreads();
  }
}

// Warps follow from the weights' shape: they are part of the order of sums.
inline int WarpsFor(int64_t columns) { return columns >= 2048 ? kMaxWarps : kMaxWarps / 2; }

template <typename R>
int64_t SharedBytes(const StreamParams& params) {
  const int64_t num_warps = WarpsFor(params.columns);
  const int64_t rows = R::kInput == StreamInput::kStreamed ? 0 : XBytes(params);
  const int64_t slots = int64_t{params.buffers} * params.batch_steps * R::kTiles;
  const int64_t squares = R::kInput == StreamInput::kNormed ? int64_t{params.num_rows} * kMaxSegments * 4 : 0;
  const int64_t bytes =
      num_warps * (R::kStages * R::kStageBytes + slots * params.num_rows * kTileOutputs * 4) + rows + squares;
  // One large block a multiprocessor: were there room for two, both could start on one that falls idle first, and
  // another would have none.
  const int64_t more_than_half = CurrentDeviceTraits().max_shared_bytes / 2 + 1024;
  return num_warps == kMaxWarps && bytes < more_than_half ? more_than_half : bytes;
}

// Chooses how sums are exchanged: in as large batches as there are threads and memory for. False where nothing fits.
template <typename R>
bool Arrange(StreamParams* params) {
  if (R::kInput == StreamInput::kNormed && params->columns > kMaxSegments * kSegmentColumns) return false;
  const int threads = WarpsFor(params->columns) * kWarpThreads;
  for (params->buffers = 2; params->buffers > 0; --params->buffers) {
    for (params->batch_steps = R::Weights::kMostBatchSteps; params->batch_steps > 0; params->batch_steps /= 2) {
      const bool writable = params->batch_steps * R::kTiles * params->num_rows * kTileOutputs <= threads;
      if (writable && SharedBytes<R>(*params) <= CurrentDeviceTraits().max_shared_bytes) return true;
    }
  }
  return false;
}

template <typename R>
cudaError_t LaunchRing(StreamParams params, cudaStream_t stream) {
  const auto kernel = StreamKernel<R>;
  static const cudaError_t attributes = [kernel] {
    const int bytes = CurrentDeviceTraits().max_shared_bytes;
    const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (error != cudaSuccess) return error;
    // One split of the memory for all kernels of the kind: to change it, a multiprocessor must fall idle.
    return cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
  }();
  if (attributes != cudaSuccess) return attributes;
  if (!Arrange<R>(&params)) return cudaErrorInvalidValue;
  // Short sums leave room for two blocks on a multiprocessor.
  const int steps = (params.num_tiles + R::kTiles - 1) / R::kTiles;
  const int places = CurrentDeviceTraits().num_multiprocessors * (WarpsFor(params.columns) == kMaxWarps ? 1 : 2);
  return LaunchKernel(kernel, dim3(static_cast<unsigned>(steps < places ? steps : places)),
                      dim3(static_cast<unsigned>(WarpsFor(params.columns) * kWarpThreads)),
                      static_cast<size_t>(SharedBytes<R>(params)), stream, params);
}

template <typename Weights, StreamInput kInput, int kTiles, bool kProjects>
cudaError_t LaunchRows(const StreamParams& params, cudaStream_t stream) {
  return params.num_rows <= kRowsPerFragment ? LaunchRing<Ring<Weights, kInput, 1, kTiles, kProjects>>(params, stream)
                                             : LaunchRing<Ring<Weights, kInput, 2, kTiles, kProjects>>(params, stream);
}

template <typename Weights, bool kProjects>
cudaError_t LaunchStream(const StreamParams& params, bool normed, cudaStream_t stream) {
  if (normed) return LaunchRows<Weights, StreamInput::kNormed, 1, kProjects>(params, stream);
  StreamParams tried = params;
  const bool fits = params.num_rows <= kRowsPerFragment
                        ? Arrange<Ring<Weights, StreamInput::kShared, 1, 1, kProjects>>(&tried)
                        : Arrange<Ring<Weights, StreamInput::kShared, 2, 1, kProjects>>(&tried);
  return fits ? LaunchRows<Weights, StreamInput::kShared, 1, kProjects>(params, stream)
              : LaunchRows<Weights, StreamInput::kStreamed, 2, kProjects>(params, stream);
}

}  // namespace farspan::kernels::cuda
