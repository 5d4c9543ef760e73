// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/cuda/decode_kernel.cuh"

namespace farspan::kernels::cuda::decode {

cudaError_t LaunchF8(const DecodeAttentionArgs& args, const Plan& plan, cudaStream_t stream) {
  return LaunchForElement<F8Element>(args, plan, stream);
}

}  // namespace farspan::kernels::cuda::decode
