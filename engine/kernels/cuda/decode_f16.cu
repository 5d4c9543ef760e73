// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/cuda/decode_kernel.cuh"

namespace farspan::kernels::cuda::decode {

cudaError_t LaunchF16(const DecodeAttentionArgs& args, const Plan& plan, cudaStream_t stream) {
  return LaunchForElement<F16Element>(args, plan, stream);
}

}  // namespace farspan::kernels::cuda::decode
