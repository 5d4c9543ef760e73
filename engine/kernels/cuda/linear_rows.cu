// SPDX-License-Identifier: Apache-2.0
// What stands between the products of many rows: the norm before them and the gate between them, 16 bytes an access.
#include "engine/kernels/cuda/device.cuh"
#include "engine/kernels/cuda/linear.h"

namespace farspan::kernels::cuda {
namespace {

constexpr int kVector = 8;       // values a thread takes at a time
constexpr int kHeldVectors = 4;  // of a row, in registers between the two passes
constexpr int kMaxThreads = 1024;

struct Floats8 {
  float v[kVector];
};

__device__ Floats8 LoadFloats(const float* from) {
  const auto* four = reinterpret_cast<const float4*>(from);
  const float4 a = four[0], b = four[1];
  return {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}

__device__ Floats8 LoadBf16s(const uint16_t* from) {
  const uint4 packed = *reinterpret_cast<const uint4*>(from);
  const uint32_t words[] = {packed.x, packed.y, packed.z, packed.w};
  Floats8 values;
#pragma unroll
  for (int i = 0; i < kVector / 2; ++i) {
    values.v[2 * i] = __uint_as_float(words[i] << 16);
    values.v[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
  return values;
}

__device__ void StoreBf16s(const Floats8& values, uint16_t* to) {
  __nv_bfloat162 pairs[kVector / 2];
#pragma unroll
  for (int i = 0; i < kVector / 2; ++i) pairs[i] = __floats2bfloat162_rn(values.v[2 * i], values.v[2 * i + 1]);
  *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(pairs);
}

// A block a row.
__global__ void __launch_bounds__(kMaxThreads) NormRowsKernel(NormRowsArgs args) {
  __shared__ float warp_sums[kMaxThreads / kWarpThreads];
  const int width = static_cast<int>(args.width), stride = static_cast<int>(blockDim.x) * kVector;
  LetNextStart();
  WaitForPrevious();
  const int64_t source = args.input.rows == nullptr ? static_cast<int64_t>(blockIdx.x) : args.input.rows[blockIdx.x];
  const float* row = args.input.hidden + source * args.width;
  Floats8 held[kHeldVectors];
  float squares = 0;
#pragma unroll
  for (int i = 0; i < kHeldVectors; ++i) {
    const int column = i * stride + static_cast<int>(threadIdx.x) * kVector;
    if (column >= width) break;
    held[i] = LoadFloats(row + column);
#pragma unroll
    for (const float value : held[i].v) squares = fmaf(value, value, squares);
  }
  squares = WarpSum(squares);
  if (threadIdx.x % kWarpThreads == 0) warp_sums[threadIdx.x / kWarpThreads] = squares;
  __syncthreads();
  float sum = 0;
  for (unsigned warp = 0; warp < blockDim.x / kWarpThreads; ++warp) sum += warp_sums[warp];
  const float factor = 1.0f / sqrtf(sum / static_cast<float>(width) + args.input.epsilon);
  uint16_t* out = static_cast<uint16_t*>(args.out) + blockIdx.x * args.width;
#pragma unroll
  for (int i = 0; i < kHeldVectors; ++i) {
    const int column = i * stride + static_cast<int>(threadIdx.x) * kVector;
    if (column >= width) break;
    const Floats8 weight = LoadFloats(args.input.weight + column);
    Floats8 normed;
#pragma unroll
    for (int j = 0; j < kVector; ++j) normed.v[j] = held[i].v[j] * factor * weight.v[j];
    StoreBf16s(normed, out + column);
  }
}

__global__ void GateRowsKernel(GateRowsArgs args) {
  LetNextStart();
  WaitForPrevious();
  const int64_t vectors = args.width / kVector;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= args.num_rows * vectors) return;
  const int64_t row = index / vectors, column = index % vectors * kVector;
  const uint16_t* from = static_cast<const uint16_t*>(args.gate_up) + row * 2 * args.width + column;
  const Floats8 gate = LoadBf16s(from), up = LoadBf16s(from + args.width);
  Floats8 inner;
#pragma unroll
  for (int i = 0; i < kVector; ++i) inner.v[i] = gate.v[i] / (1.0f + __expf(-gate.v[i])) * up.v[i];
  StoreBf16s(inner, static_cast<uint16_t*>(args.inner) + row * args.width + column);
}

}  // namespace

cudaError_t LaunchNormRows(const NormRowsArgs& args, cudaStream_t stream) {
  if (args.num_rows == 0) return cudaSuccess;
  if (args.width % kVector != 0 || args.width > kMaxThreads * kHeldVectors * kVector) return cudaErrorInvalidValue;
  int threads = kWarpThreads;
  while (threads < kMaxThreads && threads * kVector * 2 < args.width) threads *= 2;
  return LaunchKernel(NormRowsKernel, dim3(static_cast<unsigned>(args.num_rows)), dim3(threads), 0, stream, args);
}

cudaError_t LaunchGateRows(const GateRowsArgs& args, cudaStream_t stream) {
  if (args.num_rows == 0) return cudaSuccess;
  if (args.width % kVector != 0) return cudaErrorInvalidValue;
  constexpr int kThreads = 256;
  const int64_t vectors = args.num_rows * (args.width / kVector);
  return LaunchKernel(GateRowsKernel, dim3(static_cast<unsigned>((vectors + kThreads - 1) / kThreads)), dim3(kThreads),
                      0, stream, args);
}

}  // namespace farspan::kernels::cuda
