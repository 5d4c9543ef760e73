// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/cuda/decode_kernel.cuh"

namespace farspan::kernels::cuda::decode {

cudaError_t LaunchBf16(const DecodeAttentionArgs& args, const Plan& plan, cudaStream_t stream) {
  return LaunchForElement<Bf16Element>(args, plan, stream);
}

}  // namespace farspan::kernels::cuda::decode
