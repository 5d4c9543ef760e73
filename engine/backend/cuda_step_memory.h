// SPDX-License-Identifier: Apache-2.0
// A step's host arrays on their way to the device: pinned memory with a twin of the same layout in device memory, so
// that one copy carries them all. Equal sequences of sizes get equal addresses, step after step. Two steps may be under
// way: each has host memory of its own, and the twin is one, since a step's copy comes after what the step before ran.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "engine/kernels/draw_args.h"

namespace farspan {

// Engine thread only, except size_bytes. Owns its memories, taken once.
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
  // What is staged from now on is the next step's. The copies of the step before the last are done.
  void BeginNextStep();

  int64_t size_bytes() const { return size_bytes_; }

 private:
  std::array<std::byte*, 2> host_{};  // in turns
  size_t turn_ = 0;
  std::byte* device_ = nullptr;
  int64_t size_bytes_ = 0;
  int64_t staged_bytes_ = 0;
  int64_t flushed_bytes_ = 0;
};

// What is kept of a submitted step until two more are.
struct CudaStep {
  struct FreePinned {
    void operator()(void* memory) const { cudaFreeHost(memory); }
  };
  ~CudaStep() { cudaEventDestroy(end); }

  cudaEvent_t end = nullptr;
  absl::Status status;
  std::unique_ptr<kernels::DrawnRow, FreePinned> drawn;  // [kMaxDrawRows], written by the device
};

}  // namespace farspan
