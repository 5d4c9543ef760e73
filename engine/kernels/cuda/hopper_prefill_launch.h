// SPDX-License-Identifier: Apache-2.0
// The launches behind Hopper's prefill attention, one a kind of element, for head_dim 64 and 128.
#pragma once

#include <cuda_runtime_api.h>

#include "engine/kernels/args.h"

namespace farspan::kernels::cuda::hopper {

inline constexpr int64_t kMostOrderedTiles = 1024;

// In the workspace, filled by an own kernel before each launch.
struct PrefillSchedule {
  unsigned items_taken;                      // beyond each block's first
  uint32_t num_sections;                     // of the heads, in turn
  int32_t longest_first[kMostOrderedTiles];  // of up to so many tiles
};

template <int kHeadDim>
cudaError_t LaunchBf16(const PrefillAttentionArgs& args, PrefillSchedule* schedule, cudaStream_t stream);
template <int kHeadDim>
cudaError_t LaunchF16(const PrefillAttentionArgs& args, PrefillSchedule* schedule, cudaStream_t stream);
template <int kHeadDim>
cudaError_t LaunchF8(const PrefillAttentionArgs& args, PrefillSchedule* schedule, cudaStream_t stream);

}  // namespace farspan::kernels::cuda::hopper
