// SPDX-License-Identifier: Apache-2.0
#include "engine/backend/cuda_graphs.h"

namespace farspan {

CudaGraphs::~CudaGraphs() {
  for (const auto& [key, graph] : graphs_) {
    if (graph != nullptr) cudaGraphExecDestroy(graph);
  }
}

cudaError_t CudaGraphs::Run(uint64_t key, cudaStream_t stream, absl::FunctionRef<void()> ops) {
  constexpr size_t kCapacity = 128;
  const auto found = graphs_.find(key);
  if (found == graphs_.end()) {
    if (graphs_.size() < kCapacity) graphs_.emplace(key, nullptr);
    ops();
    return cudaSuccess;
  }
  if (found->second == nullptr) {
    if (const cudaError_t error = Record(stream, ops, &found->second); error != cudaSuccess) return error;
  }
  return cudaGraphLaunch(found->second, stream);
}

cudaError_t CudaGraphs::Record(cudaStream_t stream, absl::FunctionRef<void()> ops, cudaGraphExec_t* graph) {
  if (const cudaError_t error = cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
      error != cudaSuccess) {
    return error;
  }
  recording_ = true;
  ops();
  recording_ = false;
  cudaGraph_t recorded = nullptr;
  if (const cudaError_t error = cudaStreamEndCapture(stream, &recorded); error != cudaSuccess) return error;
  const cudaError_t error = cudaGraphInstantiate(graph, recorded, 0);
  cudaGraphDestroy(recorded);
  return error;
}

}  // namespace farspan
