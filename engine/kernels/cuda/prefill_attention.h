// SPDX-License-Identifier: Apache-2.0
// The kernels between which LaunchPrefillAttention chooses. All follow every kind of list and block mask.
#pragma once

#include <cuda_runtime_api.h>

#include "engine/kernels/args.h"

namespace farspan::kernels::cuda {

// A cache of bf16, fp16 or fp8, head_dim 64, 80, 96, 128 or 256, pages of at most kMaxPageTokens, a scale that is not
// negative.
bool PortablePrefillSupports(const PrefillAttentionArgs& args);

// By warp-level matrix products of 16-bit elements, on sm_80 and later. Thread blocks start with the last tiles, so
// tiles should ascend in what they see. cudaErrorInvalidValue where PortablePrefillSupports() is false.
cudaError_t LaunchPortablePrefillAttention(const PrefillAttentionArgs& args, cudaStream_t stream);

// In float32, a warp a query: any shape that fits the decode kernel, slow.
cudaError_t LaunchPlainPrefillAttention(const PrefillAttentionArgs& args, cudaStream_t stream);

}  // namespace farspan::kernels::cuda
