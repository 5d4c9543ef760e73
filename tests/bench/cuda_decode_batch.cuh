// SPDX-License-Identifier: Apache-2.0
// A decode batch in device memory, for the programs that check and time decode attention. One thread.
#pragma once

#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "engine/kernels/cuda/decode_attention.h"

namespace farspan {

#define CHECK_CUDA(call)                                                                    \
  do {                                                                                      \
    const cudaError_t error = (call);                                                       \
    if (error != cudaSuccess) {                                                             \
      std::printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(error)); \
      std::fflush(stdout);                                                                  \
      std::_Exit(1);                                                                        \
    }                                                                                       \
  } while (false)

inline std::mt19937_64 engine(std::random_device{}());

inline int64_t Integer(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(engine); }
inline bool OneIn(int64_t n) { return Integer(1, n) == 1; }

// Device memory until the end of its scope.
template <typename T>
class Array {
 public:
  explicit Array(size_t size) : size_(size) { CHECK_CUDA(cudaMalloc(&data_, std::max<size_t>(size, 1) * sizeof(T))); }
  explicit Array(const std::vector<T>& host) : Array(host.size()) { Set(host); }
  ~Array() { cudaFree(data_); }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;

  void Set(const std::vector<T>& host) {
    CHECK_CUDA(cudaMemcpy(data_, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice));
  }
  void SetBytes(int value) const { CHECK_CUDA(cudaMemset(data_, value, size_ * sizeof(T))); }
  std::vector<T> Get() const {
    std::vector<T> host(size_);
    CHECK_CUDA(cudaMemcpy(host.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost));
    return host;
  }
  T* data() const { return data_; }

 private:
  T* data_ = nullptr;
  size_t size_;
};

// The element's bits of a value in [-2, 2).
__device__ inline void StoreElement(void* out, int64_t i, kernels::KvElement element, float value) {
  if (element == kernels::KvElement::kF8E4M3) {
    static_cast<__nv_fp8_e4m3*>(out)[i] = __nv_fp8_e4m3(value);
  } else if (element == kernels::KvElement::kF16) {
    static_cast<__half*>(out)[i] = __float2half(value);
  } else {
    static_cast<uint16_t*>(out)[i] = static_cast<uint16_t>(__float_as_uint(value) >> 16);
  }
}

static __global__ void FillKernel(void* out, int64_t size, kernels::KvElement element, uint32_t seed) {
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < size; i += stride) {
    uint32_t x = static_cast<uint32_t>(i) * 2654435761u ^ static_cast<uint32_t>(i >> 32) ^ seed;
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    x ^= x >> 16;
    StoreElement(out, i, element, static_cast<float>(x & 0xffff) / 16384.0f - 2.0f);
  }
}

inline void Fill(void* out, int64_t size, kernels::KvElement element = kernels::KvElement::kBf16) {
  FillKernel<<<1024, 256>>>(out, size, element, static_cast<uint32_t>(engine()));
  CHECK_CUDA(cudaGetLastError());
}

inline float Bf16ToFloat(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

struct Shape {
  int64_t num_heads;
  int64_t num_kv_heads;
  int64_t head_dim;
  int64_t page_tokens;
  int64_t num_pages;
  int64_t num_rows;
  kernels::KvElement element;
};

// The memory of a batch whose rows read lists of one cache.
struct Batch {
  Batch(const Shape& shape, const std::vector<kernels::DecodeRow>& host_rows,
        const std::vector<kernels::KvList>& host_lists, const std::vector<kernels::KvEntry>& host_entries, void* cache)
      : shape(shape),
        rows(host_rows),
        lists(host_lists),
        entries(host_entries),
        q(OutSize()),
        out(OutSize()),
        lse(static_cast<size_t>(shape.num_rows * shape.num_heads)),
        inverse_frequencies(Frequencies()),
        cos_sin(CosSin(host_rows)),
        workspace(static_cast<size_t>(kernels::cuda::DecodeAttentionWorkspaceBytes(
            shape.num_rows, shape.num_heads, shape.num_kv_heads, shape.head_dim))),
        cache(cache) {
    Fill(q.data(), static_cast<int64_t>(OutSize()));
    workspace.SetBytes(0);
  }

  size_t OutSize() const { return static_cast<size_t>(shape.num_rows * shape.num_heads * shape.head_dim); }

  std::vector<double> Frequencies() const {
    std::vector<double> values;
    for (int64_t i = 0; i < shape.head_dim; i += 2) {
      values.push_back(std::pow(5e5, -static_cast<double>(i) / static_cast<double>(shape.head_dim)));
    }
    return values;
  }
  std::vector<float> CosSin(const std::vector<kernels::DecodeRow>& host_rows) const {
    std::vector<float> values;
    for (const kernels::DecodeRow& row : host_rows) {
      for (const double frequency : Frequencies()) {
        values.push_back(static_cast<float>(std::cos(static_cast<double>(row.position) * frequency)));
        values.push_back(static_cast<float>(std::sin(static_cast<double>(row.position) * frequency)));
      }
    }
    return values;
  }

  kernels::DecodeAttentionArgs Args(int64_t first_list = 0) const {
    return {.common = {.q = q.data(),
                       .out = out.data(),
                       .lse = lse.data(),
                       .cache = {.data = cache,
                                 .element = shape.element,
                                 .num_pages = shape.num_pages,
                                 .num_kv_heads = shape.num_kv_heads,
                                 .page_tokens = shape.page_tokens,
                                 .head_dim = shape.head_dim},
                       .entries = entries.data(),
                       .rope_cos_sin = cos_sin.data(),
                       .inverse_frequencies = inverse_frequencies.data(),
                       .rope_dim = shape.head_dim,
                       .num_heads = shape.num_heads,
                       .scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim)),
                       .activation = kernels::Activation::kBf16},
            .rows = rows.data(),
            .lists = lists.data() + first_list,
            .num_rows = shape.num_rows,
            .lists_are_settled = lists_are_settled};
  }
  kernels::cuda::Workspace Scratch() const {
    return {workspace.data(), kernels::cuda::DecodeAttentionWorkspaceBytes(shape.num_rows, shape.num_heads,
                                                                           shape.num_kv_heads, shape.head_dim)};
  }

  Shape shape;
  bool lists_are_settled = false;
  Array<kernels::DecodeRow> rows;
  Array<kernels::KvList> lists;
  Array<kernels::KvEntry> entries;
  Array<uint16_t> q;
  Array<uint16_t> out;
  Array<float> lse;
  Array<double> inverse_frequencies;
  Array<float> cos_sin;
  Array<uint8_t> workspace;
  void* cache;
};

// Compares `trials` random batches with the plain kernel, and each with itself launched again and row by row. Prints
// what differs.
bool CheckDecode(int trials);

}  // namespace farspan
