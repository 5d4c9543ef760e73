// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/cuda/hopper_prefill_kernel.cuh"

namespace farspan::kernels::cuda::hopper {

template <int kHeadDim>
cudaError_t LaunchF16(const PrefillAttentionArgs& args, PrefillSchedule* schedule, cudaStream_t stream) {
  return LaunchForElement<kHeadDim, KvElement::kF16>(args, schedule, stream);
}

template cudaError_t LaunchF16<64>(const PrefillAttentionArgs&, PrefillSchedule*, cudaStream_t);
template cudaError_t LaunchF16<128>(const PrefillAttentionArgs&, PrefillSchedule*, cudaStream_t);

}  // namespace farspan::kernels::cuda::hopper
