// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/cuda/prefill_kernel.cuh"

namespace farspan::kernels::cuda {

cudaError_t LaunchPrefillBf16(const PrefillAttentionArgs& args, cudaStream_t stream) {
  return LaunchPrefill<Bf16Element>(args, stream);
}

}  // namespace farspan::kernels::cuda
