// SPDX-License-Identifier: Apache-2.0
// The ops that read and write each value once: embedding, norm, rotary positions, SwiGLU, the write into KV pages.
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
  const int64_t token = args.token_ids[first / width], column = first % width;
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

// A warp a row.
__global__ void RmsNormKernel(RmsNormArgs args) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (row >= args.num_rows) return;
  const float* x = args.x + (args.rows == nullptr ? row : args.rows[row]) * args.width;
  float squares = 0;
  for (int64_t i = threadIdx.x; i < args.width; i += kWarpThreads) squares = fmaf(x[i], x[i], squares);
  const float mean = WarpSum(squares) / static_cast<float>(args.width);
  const float scale = 1.0f / sqrtf(mean + args.epsilon);
  for (int64_t i = threadIdx.x; i < args.width; i += kWarpThreads) {
    args.out[row * args.width + i] = x[i] * scale * args.weight[i];
  }
}

__global__ void SiluMulKernel(SiluMulArgs args) {
  const int64_t i = GlobalThread();
  if (i >= args.num_rows * args.width) return;
  const float gate = args.gate[i];
  args.gate[i] = gate / (1.0f + expf(-gate)) * args.up[i];
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

__global__ void RopeKernel(RopeArgs args) {
  const int64_t i = GlobalThread(), pairs = args.rope_dim / 2;
  if (i >= args.num_rows * args.num_heads * pairs) return;
  const int64_t pair = i % pairs, head = i / pairs, row = head / args.num_heads;
  float* x = args.x + head * args.head_dim + 2 * pair;
  const float* cos_sin = args.cos_sin + row * args.rope_dim + 2 * pair;
  const float even = x[0], odd = x[1];
  x[0] = even * cos_sin[0] - odd * cos_sin[1];
  x[1] = even * cos_sin[1] + odd * cos_sin[0];
}

__global__ void KvAppendKernel(KvAppendArgs args) {
  const KvLayerView& cache = args.cache;
  const int64_t i = GlobalThread(), row_elements = cache.num_kv_heads * cache.head_dim;
  if (i >= args.num_rows * row_elements) return;
  const int64_t row = i / row_elements, head = i % row_elements / cache.head_dim, d = i % cache.head_dim;
  const KvSlot slot = args.slots[row];
  if (slot.page < 0) return;
  const int64_t key =
      (slot.page * cache.num_kv_heads + head) * 2 * cache.plane_elements() + slot.token * cache.head_dim + d;
  const int64_t value = key + cache.plane_elements();
  if (cache.element == KvElement::kF32) {
    static_cast<float*>(cache.data)[key] = args.k[i];
    static_cast<float*>(cache.data)[value] = args.v[i];
  } else {
    static_cast<uint16_t*>(cache.data)[key] = ToBf16(args.k[i]);
    static_cast<uint16_t*>(cache.data)[value] = ToBf16(args.v[i]);
  }
}

// The sum of every thread's value in every thread, added in one order.
__device__ float BlockSum(float value) {
  __shared__ float sums[kThreads / kWarpThreads];
  value = WarpSum(value);
  if (threadIdx.x % kWarpThreads == 0) sums[threadIdx.x / kWarpThreads] = value;
  __syncthreads();
  float total = 0;
#pragma unroll
  for (const float sum : sums) total += sum;
  return total;
}

// A block a row.
template <typename Out>
__global__ void GatherNormKernel(GatherNormArgs args) {
  LetNextStart();
  WaitForPrevious();
  const float* x = args.x + args.rows[blockIdx.x] * args.width;
  Out* out = static_cast<Out*>(args.out) + blockIdx.x * args.width;
  const int64_t vectors = args.width % kVectorValues == 0 ? args.width / kVectorValues : 0;
  const int64_t first_rest = vectors * kVectorValues;
  float squares = 0;
  for (int64_t i = threadIdx.x; i < vectors; i += kThreads) {
    const Values8 values = Load8(x + i * kVectorValues);
#pragma unroll
    for (const float value : values.at) squares = fmaf(value, value, squares);
  }
  for (int64_t i = first_rest + threadIdx.x; i < args.width; i += kThreads) squares = fmaf(x[i], x[i], squares);
  const float scale = 1.0f / sqrtf(BlockSum(squares) / static_cast<float>(args.width) + args.epsilon);
  for (int64_t i = threadIdx.x; i < vectors; i += kThreads) {
    Values8 values = Load8(x + i * kVectorValues);
    const Values8 weight = Load8(args.weight + i * kVectorValues);
#pragma unroll
    for (int j = 0; j < kVectorValues; ++j) values.at[j] = values.at[j] * scale * weight.at[j];
    Store8(out + i * kVectorValues, values);
  }
  for (int64_t i = first_rest + threadIdx.x; i < args.width; i += kThreads) out[i] = Out(x[i] * scale * args.weight[i]);
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

cudaError_t LaunchRmsNorm(const RmsNormArgs& args, cudaStream_t stream) {
  if (args.num_rows == 0) return cudaSuccess;
  constexpr int kRows = kThreads / kWarpThreads;
  const auto blocks = static_cast<unsigned>((args.num_rows + kRows - 1) / kRows);
  RmsNormKernel<<<blocks, dim3(kWarpThreads, kRows), 0, stream>>>(args);
  return cudaGetLastError();
}

cudaError_t LaunchSiluMul(const SiluMulArgs& args, cudaStream_t stream) {
  if (args.num_rows == 0) return cudaSuccess;
  SiluMulKernel<<<Blocks(args.num_rows * args.width), kThreads, 0, stream>>>(args);
  return cudaGetLastError();
}

cudaError_t LaunchRopeTable(const RopeTableArgs& args, cudaStream_t stream) {
  if (args.num_rows == 0 || args.rope_dim == 0) return cudaSuccess;
  return LaunchKernel(RopeTableKernel, Blocks(args.num_rows * (args.rope_dim / 2)), kThreads, 0, stream, args);
}

cudaError_t LaunchRope(const RopeArgs& args, cudaStream_t stream) {
  if (args.num_rows == 0 || args.rope_dim == 0) return cudaSuccess;
  RopeKernel<<<Blocks(args.num_rows * args.num_heads * (args.rope_dim / 2)), kThreads, 0, stream>>>(args);
  return cudaGetLastError();
}

cudaError_t LaunchKvAppend(const KvAppendArgs& args, cudaStream_t stream) {
  if (args.num_rows == 0) return cudaSuccess;
  KvAppendKernel<<<Blocks(args.num_rows * args.cache.num_kv_heads * args.cache.head_dim), kThreads, 0, stream>>>(args);
  return cudaGetLastError();
}

cudaError_t LaunchGatherNorm(const GatherNormArgs& args, cudaStream_t stream) {
  if (args.num_rows == 0) return cudaSuccess;
  return WithActivation(args.activation, [&]<typename Out>() {
    return LaunchKernel(GatherNormKernel<Out>, static_cast<unsigned>(args.num_rows), kThreads, 0, stream, args);
  });
}

}  // namespace farspan::kernels::cuda
