// SPDX-License-Identifier: Apache-2.0
// Random weights and pages: a thread a block of values.
#include "engine/kernels/cuda/kernels.h"
#include "engine/kernels/random_block.h"

namespace farspan::kernels::cuda {
namespace {

constexpr int kThreads = 256;

template <RandomFormat kFormat>
__global__ void FillRandomKernel(FillRandomArgs args) {
  const int64_t block = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (block * kRandomBlock < args.num_values) FillRandomBlock<kFormat>(args, block);
}

template <RandomFormat kFormat>
cudaError_t Launch(const FillRandomArgs& args, cudaStream_t stream) {
  constexpr int64_t kValues = kThreads * kRandomBlock;
  const auto grid = static_cast<unsigned>((args.num_values + kValues - 1) / kValues);
  FillRandomKernel<kFormat><<<grid, kThreads, 0, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace

cudaError_t LaunchFillRandom(const FillRandomArgs& args, cudaStream_t stream) {
  if (args.num_values == 0) return cudaSuccess;
  switch (args.format) {
    case RandomFormat::kF32:
      return Launch<RandomFormat::kF32>(args, stream);
    case RandomFormat::kBf16:
      return Launch<RandomFormat::kBf16>(args, stream);
    case RandomFormat::kF16:
      return Launch<RandomFormat::kF16>(args, stream);
    case RandomFormat::kF8E4M3:
      return Launch<RandomFormat::kF8E4M3>(args, stream);
    case RandomFormat::kQ4_0:
      return Launch<RandomFormat::kQ4_0>(args, stream);
    case RandomFormat::kQ8_0:
      return Launch<RandomFormat::kQ8_0>(args, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace farspan::kernels::cuda
