// SPDX-License-Identifier: Apache-2.0
// Products of many bf16 rows with bf16 weights on tensor cores, by cuBLASLt: float32 sums, one algorithm for each
// shape.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <map>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/kernels/cuda/kernels.h"

namespace farspan {

// y[r][n] = sum over k of x[r][k] * weight[n][k], plus y's old value when `accumulate`. Pointers are 16-byte
// aligned, columns a multiple of 8, and y_stride too where y is bf16.
struct CudaGemmArgs {
  const void* x;           // bf16 [num_rows][num_columns]
  const void* weight;      // bf16 [num_outputs][num_columns]
  void* y;                 // [num_rows][y_stride], the first num_outputs of each row are written
  bool y_is_bf16 = false;  // else float32
  bool accumulate = false;
  int64_t num_rows;
  int64_t num_outputs;
  int64_t num_columns;
  int64_t y_stride;
};

// One thread. Algorithms are chosen when a shape is first seen (some 100 us on the host), one for all row counts of a
// bucket, and kept; none adds in an order that may change between runs. The workspace outlives all that is enqueued.
class CudaGemm {
 public:
  static constexpr uint32_t kAlignmentBytes = 16;  // of every pointer
  static constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;

  // INTERNAL when the library cannot start.
  static absl::StatusOr<std::unique_ptr<CudaGemm>> Create(kernels::cuda::Workspace workspace);
  ~CudaGemm();
  CudaGemm(const CudaGemm&) = delete;
  CudaGemm& operator=(const CudaGemm&) = delete;

  // Enqueues only; may run inside a stream capture. INTERNAL names the shape that the library refused.
  absl::Status Run(const CudaGemmArgs& args, cudaStream_t stream);

 private:
  struct Shape {
    int64_t bucket_rows, num_outputs, num_columns, y_stride;
    bool y_is_bf16, accumulate;
    auto operator<=>(const Shape&) const = default;
  };

  CudaGemm(cublasLtHandle_t handle, kernels::cuda::Workspace workspace) : handle_(handle), workspace_(workspace) {}
  absl::StatusOr<const cublasLtMatmulAlgo_t*> AlgorithmFor(const Shape& shape);

  const cublasLtHandle_t handle_;
  const kernels::cuda::Workspace workspace_;
  std::map<Shape, cublasLtMatmulAlgo_t> algorithms_;
};

}  // namespace farspan
