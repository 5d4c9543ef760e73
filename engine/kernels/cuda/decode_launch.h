// SPDX-License-Identifier: Apache-2.0
// The decode kernel's launches by element of the cache, each compiled in a file of its own.
#pragma once

#include <cuda.h>

#include "engine/kernels/cuda/decode_layout.cuh"

namespace farspan::kernels::cuda::decode {

// The cache as the kernel copies it, by tiles of 128 bytes a token; `padded_dim` is the kernel's head_dim.
bool EncodeCache(const KvLayerView& cache, int64_t padded_dim, CUtensorMap* map);

cudaError_t LaunchBf16(const DecodeAttentionArgs& args, const Plan& plan, cudaStream_t stream);
cudaError_t LaunchF16(const DecodeAttentionArgs& args, const Plan& plan, cudaStream_t stream);
cudaError_t LaunchF8(const DecodeAttentionArgs& args, const Plan& plan, cudaStream_t stream);

}  // namespace farspan::kernels::cuda::decode
