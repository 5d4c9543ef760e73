// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/cuda/hopper_prefill_kernel.cuh"

namespace farspan::kernels::cuda::hopper {

template <int kHeadDim>
cudaError_t LaunchF8(const PrefillAttentionArgs& args, PrefillSchedule* schedule, cudaStream_t stream) {
  return LaunchForElement<kHeadDim, KvElement::kF8E4M3>(args, schedule, stream);
}

template cudaError_t LaunchF8<64>(const PrefillAttentionArgs&, PrefillSchedule*, cudaStream_t);
template cudaError_t LaunchF8<128>(const PrefillAttentionArgs&, PrefillSchedule*, cudaStream_t);

}  // namespace farspan::kernels::cuda::hopper
