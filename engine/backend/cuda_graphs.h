// SPDX-License-Identifier: Apache-2.0
// Steps recorded as CUDA graphs, by key.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"

namespace farspan {

// Engine thread only. Owns the graphs.
class CudaGraphs {
 public:
  CudaGraphs() = default;
  CudaGraphs(const CudaGraphs&) = delete;
  CudaGraphs& operator=(const CudaGraphs&) = delete;
  ~CudaGraphs();

  // Enqueues `ops`, or what they enqueued when this key was recorded: at its second run, since the first may load code
  // and choose algorithms. A key beyond the capacity is never recorded.
  cudaError_t Run(uint64_t key, cudaStream_t stream, absl::FunctionRef<void()> ops);
  // True inside `ops` of a run that records.
  bool recording() const { return recording_; }

 private:
  cudaError_t Record(cudaStream_t stream, absl::FunctionRef<void()> ops, cudaGraphExec_t* graph);

  absl::flat_hash_map<uint64_t, cudaGraphExec_t> graphs_;  // null until recorded
  bool recording_ = false;
};

}  // namespace farspan
