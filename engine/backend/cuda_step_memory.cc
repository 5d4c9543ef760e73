// SPDX-License-Identifier: Apache-2.0
#include "engine/backend/cuda_step_memory.h"

#include <algorithm>
#include <cstring>

#include "engine/base/math.h"

namespace farspan {

CudaStepMemory::~CudaStepMemory() {
  for (std::byte* host : host_) cudaFreeHost(host);
  cudaFree(device_);
}

cudaError_t CudaStepMemory::Take(int64_t size_bytes) {
  const auto size = static_cast<size_t>(size_bytes);
  for (std::byte*& host : host_) {
    const cudaError_t error = cudaMallocHost(reinterpret_cast<void**>(&host), size);
    if (error != cudaSuccess) return error;
  }
  if (const cudaError_t error = cudaMalloc(reinterpret_cast<void**>(&device_), size); error != cudaSuccess) {
    return error;
  }
  size_bytes_ = size_bytes;
  return cudaSuccess;
}

void* CudaStepMemory::Stage(std::span<const std::byte> bytes) {
  constexpr int64_t kAlignment = 256;
  const auto size = static_cast<int64_t>(bytes.size());
  if (size > size_bytes_ - staged_bytes_) return nullptr;
  std::memcpy(host_[turn_] + staged_bytes_, bytes.data(), bytes.size());
  std::byte* const device = device_ + staged_bytes_;
  staged_bytes_ = std::min(size_bytes_, RoundUp(staged_bytes_ + size, kAlignment));
  return device;
}

cudaError_t CudaStepMemory::Flush(cudaStream_t stream) {
  if (flushed_bytes_ == staged_bytes_) return cudaSuccess;
  const int64_t begin = flushed_bytes_;
  flushed_bytes_ = staged_bytes_;
  return cudaMemcpyAsync(device_ + begin, host_[turn_] + begin, static_cast<size_t>(staged_bytes_ - begin),
                         cudaMemcpyHostToDevice, stream);
}

void CudaStepMemory::BeginNextStep() {
  staged_bytes_ = flushed_bytes_ = 0;
  turn_ = 1 - turn_;
}

}  // namespace farspan
