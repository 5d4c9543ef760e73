// SPDX-License-Identifier: Apache-2.0
// Prefill attention on devices of compute capability 9.0, by their asynchronous matrix products: every kind of list and
// block mask. LaunchPrefillAttention is for what it does not support.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "engine/kernels/args.h"
#include "engine/kernels/cuda/kernels.h"

namespace farspan::kernels::cuda {

// bf16 activations, a cache of 16 or 8 bits, head_dim 64 or 128, page_tokens 16, 32 or 64, a positive scale, on the
// current device. Products are of bf16 where the cache is, else of f16: there queries beyond 65504 count as that.
bool HopperPrefillSupports(const PrefillAttentionArgs& args);

int64_t HopperPrefillWorkspaceBytes();

// cudaErrorInvalidValue where HopperPrefillSupports() is false or the workspace is too small.
cudaError_t LaunchHopperPrefillAttention(const PrefillAttentionArgs& args, Workspace workspace, cudaStream_t stream);

}  // namespace farspan::kernels::cuda
