// SPDX-License-Identifier: Apache-2.0
// What a pass starts from: embeddings and the table of rotations.
#include "engine/kernels/cuda/device.cuh"
#include "engine/kernels/cuda/kernels.h"
#include "engine/kernels/cuda/vectors.cuh"

namespace farspan::kernels::cuda {
namespace {

constexpr int kThreads = 256;

unsigned Blocks(int64_t elements) { return static_cast<unsigned>((elements + kThreads - 1) / kThreads); }

__device__ int64_t GlobalThread() { return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; }

// A thread writes `kValues` neighbouring columns: eight where the width allows it, else one.
template <WeightType kType, int kValues>
__global__ void EmbedKernel(EmbedArgs args) {
  LetNextStart();
  WaitForPrevious();
  const int64_t first = GlobalThread() * kValues, width = args.table.columns;
  if (first >= args.num_rows * width) return;
  const int64_t token = TokenIdOf(args, first / width), column = first % width;
  const void* table = args.table.data;
  if constexpr (kValues == 1) {
    args.out[first] = LoadWeightAt<kType>(table, width, token, column);
  } else if constexpr (kType == WeightType::kBf16) {
    Store8(args.out + first, Load8(static_cast<const __nv_bfloat16*>(table) + token * width + column));
  } else {
    Values8 values;
#pragma unroll
    for (int i = 0; i < kValues; ++i) values.at[i] = LoadWeightAt<kType>(table, width, token, column + i);
    Store8(args.out + first, values);
  }
}

__global__ void RopeTableKernel(RopeTableArgs args) {
  LetNextStart();
  WaitForPrevious();
  const int64_t i = GlobalThread(), pairs = args.rope_dim / 2;
  if (i >= args.num_rows * pairs) return;
  const double angle = static_cast<double>(args.positions[i / pairs]) * args.inverse_frequencies[i % pairs];
  args.cos_sin[2 * i] = static_cast<float>(cos(angle));
  args.cos_sin[2 * i + 1] = static_cast<float>(sin(angle));
}

}  // namespace

cudaError_t LaunchEmbed(const EmbedArgs& args, cudaStream_t stream) {
  if (args.num_rows == 0) return cudaSuccess;
  return WithWeightType(args.table.type, [&]<WeightType kType>() {
    const int64_t values = args.num_rows * args.table.columns;
    if (args.table.columns % kVectorValues != 0) {
      return LaunchKernel(EmbedKernel<kType, 1>, Blocks(values), kThreads, 0, stream, args);
    }
    return LaunchKernel(EmbedKernel<kType, kVectorValues>, Blocks(values / kVectorValues), kThreads, 0, stream, args);
  });
}

cudaError_t LaunchRopeTable(const RopeTableArgs& args, cudaStream_t stream) {
  if (args.num_rows == 0 || args.rope_dim == 0) return cudaSuccess;
  return LaunchKernel(RopeTableKernel, Blocks(args.num_rows * (args.rope_dim / 2)), kThreads, 0, stream, args);
}

}  // namespace farspan::kernels::cuda
