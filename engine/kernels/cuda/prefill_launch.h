// SPDX-License-Identifier: Apache-2.0
// The portable prefill kernel, one function for each element of a cache so that they compile side by side.
#pragma once

#include <cuda_runtime_api.h>

#include "engine/kernels/args.h"

namespace farspan::kernels::cuda {

cudaError_t LaunchPrefillBf16(const PrefillAttentionArgs& args, cudaStream_t stream);
cudaError_t LaunchPrefillF16(const PrefillAttentionArgs& args, cudaStream_t stream);
cudaError_t LaunchPrefillF8(const PrefillAttentionArgs& args, cudaStream_t stream);

}  // namespace farspan::kernels::cuda
