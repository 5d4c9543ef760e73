// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/cuda/prefill_kernel.cuh"

namespace farspan::kernels::cuda {

cudaError_t LaunchPrefillF8(const PrefillAttentionArgs& args, cudaStream_t stream) {
  return LaunchPrefill<F8Element>(args, stream);
}

}  // namespace farspan::kernels::cuda
