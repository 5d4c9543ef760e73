// SPDX-License-Identifier: Apache-2.0
// A warp an output and up to kRowsPerTile rows: each weight is read and widened once for them. Lane l sums the columns
// k with k % 32 == l in ascending order, then the lanes are added in one order: a row's result does not depend on how
// many rows there are.
#include "engine/kernels/cuda/device.cuh"
#include "engine/kernels/cuda/linear.h"

namespace farspan::kernels::cuda {
namespace {

constexpr int kWarpsPerBlock = 8;
constexpr int kRowsPerTile = 8;

template <WeightType kType>
__global__ void LinearKernel(PlainLinearArgs args) {
  WaitForPrevious();
  LetNextStart();
  const int64_t output = static_cast<int64_t>(blockIdx.x) * kWarpsPerBlock + threadIdx.y;
  if (output >= args.weight.rows) return;
  const int64_t columns = args.weight.columns;
  const int64_t first_row = static_cast<int64_t>(blockIdx.y) * kRowsPerTile;
  const int64_t num_rows = min(static_cast<int64_t>(kRowsPerTile), args.num_rows - first_row);
  const uint16_t* x = static_cast<const uint16_t*>(args.x) + first_row * columns;
  float sums[kRowsPerTile] = {};
  for (int64_t k = threadIdx.x; k < columns; k += kWarpThreads) {
    const float weight = LoadWeightAt<kType>(args.weight.data, columns, output, k);
#pragma unroll
    for (int r = 0; r < kRowsPerTile; ++r) {
      if (r < num_rows) sums[r] = fmaf(LoadBf16(x, r * columns + k), weight, sums[r]);
    }
  }
#pragma unroll
  for (int r = 0; r < kRowsPerTile; ++r) {
    if (r >= num_rows) break;
    const float sum = WarpSum(sums[r]);
    if (threadIdx.x != 0) continue;
    const int64_t index = (first_row + r) * args.y_stride + output;
    if (args.y_is_bf16) {
      static_cast<uint16_t*>(args.y)[index] = ToBf16(sum);
    } else {
      float* y = static_cast<float*>(args.y) + index;
      *y = args.accumulate ? *y + sum : sum;
    }
  }
}

}  // namespace

cudaError_t LaunchPlainLinear(const PlainLinearArgs& args, cudaStream_t stream) {
  if (args.num_rows == 0) return cudaSuccess;
  const dim3 grid(static_cast<unsigned>((args.weight.rows + kWarpsPerBlock - 1) / kWarpsPerBlock),
                  static_cast<unsigned>((args.num_rows + kRowsPerTile - 1) / kRowsPerTile));
  const dim3 block(kWarpThreads, kWarpsPerBlock);
  return WithWeightType(args.weight.type, [&]<WeightType kType>() {
    return LaunchKernel(LinearKernel<kType>, grid, block, 0, stream, args);
  });
}

}  // namespace farspan::kernels::cuda
