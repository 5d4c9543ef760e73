// SPDX-License-Identifier: Apache-2.0
// The matrix products of a layer on CUDA with what stands around them: kernels that stream the weights for few rows,
// cuBLASLt for many.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <span>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/backend/cuda_gemm.h"
#include "engine/kernels/args.h"
#include "engine/kernels/cuda/linear.h"

namespace farspan {

// Engine thread only. Enqueues on `stream`; INTERNAL names what failed. Activations are bf16.
class CudaLayers {
 public:
  // Tiled weights become bf16 in `scratch`, a part after the other, where there are many rows.
  CudaLayers(std::unique_ptr<CudaGemm> gemm, kernels::cuda::Workspace scratch, cudaStream_t stream)
      : gemm_(std::move(gemm)), scratch_(scratch), stream_(stream) {}

  absl::Status AttentionInput(const kernels::AttentionInputArgs& args);
  absl::Status AttentionOutput(const kernels::AddLinearArgs& args);
  absl::Status FeedForward(const kernels::FeedForwardArgs& args);
  absl::Status Logits(const kernels::LogitsArgs& args);

 private:
  // Where a product goes: rows of `stride` elements, of which it writes its own number of outputs.
  struct Target {
    void* y = nullptr;
    int64_t stride = 0;
    bool is_bf16 = false;
    bool accumulate = false;
  };

  // The products of x with every weight, side by side in the target's rows.
  absl::Status MultiplyAll(const void* x, std::span<const kernels::WeightView> weights, int64_t num_rows,
                           Target target);
  absl::Status Multiply(const void* x, const kernels::WeightView& weight, int64_t num_rows, const Target& target);
  absl::Status MultiplyTiles(const void* x, const kernels::WeightView& weight, int64_t num_rows, const Target& target);
  // Rows of the residual stream and where they lie normed.
  struct Rows {
    int64_t num_rows = 0;
    int64_t width = 0;
    void* normed = nullptr;
  };
  using WeightsView = std::span<const kernels::WeightView>;

  // Few rows: `launch` streams the weights, with the norm inside or from normed rows, whichever fits the device. False
  // where it cannot: the rows are normed then.
  absl::StatusOr<bool> Stream(kernels::cuda::NormedRows input, const Rows& rows, const WeightsView& weights,
                              absl::FunctionRef<cudaError_t(const kernels::cuda::NormedRows&)> launch);
  absl::Status Norm(const kernels::cuda::NormedRows& input, int64_t num_rows, int64_t width, void* normed);

  const std::unique_ptr<CudaGemm> gemm_;
  const kernels::cuda::Workspace scratch_;
  const cudaStream_t stream_;
};

}  // namespace farspan
