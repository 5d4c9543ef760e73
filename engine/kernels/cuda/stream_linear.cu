// SPDX-License-Identifier: Apache-2.0
// Products of few rows with weights that stream from memory once: the bf16 format, and the launchers.
#include "engine/kernels/cuda/stream_kernel.cuh"

namespace farspan::kernels::cuda {
namespace {

// Rows in memory as they are: each lane asks for its own 16 bytes of two rows. A warp takes 64 columns, whole cache
// lines, in two steps.
struct Bf16Weights {
  static constexpr int kStepColumns = kChunkColumns;
  static constexpr int kWarpColumns = 2 * kChunkColumns;
  static constexpr int kStageBytes = 2 * kWarpThreads * kVectorBytes;
  static constexpr int kMostBatchSteps = 1;

  __device__ static int NextColumn(int column) {
    return column + ((column & kChunkColumns) == 0 ? kChunkColumns : NumWarps() * kWarpColumns - kChunkColumns);
  }

  class Place {
   public:
    __device__ void Seek(const StreamParams& params, int tile) {
      rows_[0] = RowOfTile(params, tile, Lane() / 4);
      rows_[1] = RowOfTile(params, tile, Lane() / 4 + 8);
    }

    __device__ void Ask(const StreamParams& params, uint32_t shared, int step_column) const {
      const int column = step_column + Lane() % 4 * 8;
      const bool inside = column < params.columns;
      const int64_t offset = inside ? 2 * static_cast<int64_t>(column) : 0;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        CopyAsync(shared + (i * kWarpThreads + Lane()) * kVectorBytes, rows_[i].bytes + offset,
                  inside && rows_[i].exists);
      }
    }

   private:
    // A weight row, or none where a tile reaches past the last one.
    struct WeightRow {
      const uint8_t* bytes;
      bool exists;
    };

    __device__ static WeightRow RowOfTile(const StreamParams& params, int tile, int index) {
      int weight = WeightOfTile(params, tile);
      int row = (tile - params.first_tile[weight]) * kTileOutputs + index;
      if (params.output == StreamOutput::kGated) {
        weight = index / 8;
        row = tile * 8 + index % 8;
      }
      const bool exists = tile < params.num_tiles && row < params.weight_rows[weight];
      return {params.weights[weight] + (exists ? static_cast<int64_t>(row) * params.columns * 2 : 0), exists};
    }

    WeightRow rows_[2];
  };

  // Even and odd halves of a chunk have sums of their own: shorter chains.
  template <int kFragments>
  __device__ static void Multiply(uint32_t shared, int, const uint4 (&x)[kFragments], float (&sums)[2][kFragments][4]) {
    const uint4 upper = LoadShared(shared + Lane() * kVectorBytes);
    const uint4 lower = LoadShared(shared + (kWarpThreads + Lane()) * kVectorBytes);
#pragma unroll
    for (int i = 0; i < kFragments; ++i) {
      MultiplyAdd(sums[0][i], upper.x, lower.x, upper.y, lower.y, x[i].x, x[i].y);
      MultiplyAdd(sums[1][i], upper.z, lower.z, upper.w, lower.w, x[i].z, x[i].w);
    }
  }
};

int64_t RowStrideBytes(int64_t columns) {
  const int64_t bytes = (columns + 2 * kChunkColumns - 1) / (2 * kChunkColumns) * (2 * kChunkColumns) * 2;
  return bytes + 64;
}

// The weights' part of the parameters; false where they are not for this kernel.
bool TakeWeights(const WeightView* weights, int64_t num_weights, int64_t num_rows, StreamOutput output,
                 StreamParams* params) {
  const int64_t columns = weights[0].columns;
  const bool tiled = IsTiled(weights[0].type);
  if (num_rows > kMaxStreamedRows || columns % (tiled ? kTileColumns : 8) != 0 || columns == 0) return false;
  int64_t tiles = 0, outputs = 0;
  for (int64_t i = 0; i < kMaxJoinedWeights; ++i) {
    params->first_tile[i] = i < num_weights ? static_cast<int>(tiles) : std::numeric_limits<int>::max();
    params->first_output[i] = static_cast<int>(outputs);
    if (i >= num_weights) continue;
    if (weights[i].type != weights[0].type || weights[i].columns != columns) return false;
    params->weights[i] = static_cast<const uint8_t*>(weights[i].data);
    params->weight_rows[i] = static_cast<int>(weights[i].rows);
    if (tiled && weights[i].rows % kTileRows != 0) return false;
    outputs += weights[i].rows;
    tiles += (weights[i].rows + kTileOutputs - 1) / kTileOutputs;
  }
  if (output == StreamOutput::kGated) {
    if (weights[0].rows != weights[1].rows) return false;
    outputs = weights[0].rows;
    if (!tiled) tiles = (outputs + kTileOutputs / 2 - 1) / (kTileOutputs / 2);
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
  if (rows.normed != nullptr) return {.x = rows.normed, .out = out};
  return {.x = rows.hidden, .norm_weight = rows.weight, .rows = rows.rows, .epsilon = rows.epsilon, .out = out};
}

void TakeAppend(const RopeAppendArgs& args, StreamParams* params) {
  params->cos_sin = args.cos_sin;
  params->slots = args.slots;
  params->cache = args.cache;
  params->num_heads = static_cast<int>(args.num_heads);
  params->rope_dim = static_cast<int>(args.rope_dim);
}

cudaError_t Stream(const StreamParams& params, WeightType type, bool normed, cudaStream_t stream) {
  switch (type) {
    case WeightType::kBf16:
      return params.output == StreamOutput::kProjected ? LaunchStream<Bf16Weights, true>(params, normed, stream)
                                                       : LaunchStream<Bf16Weights, false>(params, normed, stream);
    case WeightType::kTiled4:
      return StreamTiles<WeightType::kTiled4>(params, stream);
    case WeightType::kTiled4Min:
      return StreamTiles<WeightType::kTiled4Min>(params, stream);
    case WeightType::kTiled5:
      return StreamTiles<WeightType::kTiled5>(params, stream);
    case WeightType::kTiled5Min:
      return StreamTiles<WeightType::kTiled5Min>(params, stream);
    case WeightType::kTiled6:
      return StreamTiles<WeightType::kTiled6>(params, stream);
    case WeightType::kTiled8:
      return StreamTiles<WeightType::kTiled8>(params, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace

cudaError_t LaunchNormLinear(const NormLinearArgs& args, cudaStream_t stream) {
  if (args.num_rows == 0) return cudaSuccess;
  int64_t outputs = 0, first_output = 0;
  for (int64_t i = 0; i < args.num_weights; ++i) outputs += args.weights[i].rows;
  const StreamOutput output = args.append == nullptr ? StreamOutput::kBf16 : StreamOutput::kProjected;
  for (int64_t begin = 0; begin < args.num_weights;) {
    int64_t end = begin + 1;
    while (end < args.num_weights && args.weights[end].type == args.weights[begin].type) ++end;
    StreamParams params = ParamsOf(args.input, args.append == nullptr ? args.y : args.append->q);
    const WeightView* weights = args.weights + begin;
    if (!TakeWeights(weights, end - begin, args.num_rows, output, &params)) return cudaErrorInvalidValue;
    for (int& first : params.first_output) first += static_cast<int>(first_output);
    first_output += params.out_stride;
    params.out_stride = outputs;
    if (args.append != nullptr) TakeAppend(*args.append, &params);
    const cudaError_t error = Stream(params, weights[0].type, args.input.normed == nullptr, stream);
    if (error != cudaSuccess) return error;
    begin = end;
  }
  return cudaSuccess;
}

cudaError_t LaunchNormGateUp(const NormGateUpArgs& args, cudaStream_t stream) {
  if (args.num_rows == 0) return cudaSuccess;
  StreamParams params = ParamsOf(args.input, args.inner);
  const WeightView weights[] = {args.gate, args.up};
  if (!TakeWeights(weights, 2, args.num_rows, StreamOutput::kGated, &params)) return cudaErrorInvalidValue;
  return Stream(params, args.gate.type, args.input.normed == nullptr, stream);
}

cudaError_t LaunchAddLinear(const AddLinearArgs& args, cudaStream_t stream) {
  if (args.num_rows == 0) return cudaSuccess;
  StreamParams params = {.x = args.x, .out = args.hidden};
  if (!TakeWeights(&args.weight, 1, args.num_rows, StreamOutput::kAdded, &params)) return cudaErrorInvalidValue;
  return Stream(params, args.weight.type, false, stream);
}

cudaError_t LaunchLogits(const LogitsArgs& args, cudaStream_t stream) {
  if (args.num_rows == 0) return cudaSuccess;
  const bool given = args.hidden == nullptr;
  const NormedRows input = {.hidden = args.hidden,
                            .weight = args.norm_weight,
                            .epsilon = args.epsilon,
                            .rows = args.rows,
                            .normed = given ? args.normed : nullptr};
  StreamParams params = ParamsOf(input, args.logits);
  if (!TakeWeights(&args.weight, 1, args.num_rows, StreamOutput::kFloat32, &params)) return cudaErrorInvalidValue;
  return Stream(params, args.weight.type, !given, stream);
}

}  // namespace farspan::kernels::cuda
