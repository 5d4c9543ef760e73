// SPDX-License-Identifier: Apache-2.0
// The matrix products of a layer on CUDA with what stands around them: kernels that stream the weights for few rows,
// cuBLASLt for many.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <span>

#include "absl/status/status.h"
#include "engine/backend/cuda_gemm.h"
#include "engine/kernels/args.h"

namespace farspan {

// Engine thread only. Enqueues on `stream`; INTERNAL names what failed. Activations are bf16.
class CudaLayers {
 public:
  CudaLayers(std::unique_ptr<CudaGemm> gemm, cudaStream_t stream) : gemm_(std::move(gemm)), stream_(stream) {}

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

  const std::unique_ptr<CudaGemm> gemm_;
  const cudaStream_t stream_;
};

}  // namespace farspan
