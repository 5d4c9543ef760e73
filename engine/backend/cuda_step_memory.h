// SPDX-License-Identifier: Apache-2.0
// One step's host arrays on their way to the device: pinned memory with a twin of the same layout in device memory, so
// that one copy carries them all. Equal sequences of sizes get equal addresses, step after step.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <span>

namespace farspan {

// Engine thread only, except size_bytes. Owns both memories, taken once.
class CudaStepMemory {
 public:
  CudaStepMemory() = default;
  CudaStepMemory(const CudaStepMemory&) = delete;
  CudaStepMemory& operator=(const CudaStepMemory&) = delete;
  ~CudaStepMemory();

  cudaError_t Take(int64_t size_bytes);

  // Where the bytes will lie on the device once Flush's copy is done; null when the step's arrays exceed the memory.
  void* Stage(std::span<const std::byte> bytes);
  // Enqueues the copy of what was staged since the last one.
  cudaError_t Flush(cudaStream_t stream);
  // The step that read what was staged has completed.
  void Reset();

  int64_t size_bytes() const { return size_bytes_; }

 private:
  std::byte* host_ = nullptr;
  std::byte* device_ = nullptr;
  int64_t size_bytes_ = 0;
  int64_t staged_bytes_ = 0;
  int64_t flushed_bytes_ = 0;
};

}  // namespace farspan
