// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/cuda/stream_tiles.cuh"

namespace farspan::kernels::cuda {

template <>
cudaError_t StreamTiles<WeightType::kTiled5>(const StreamParams& params, cudaStream_t stream) {
  return LaunchTiledRows<WeightType::kTiled5>(params, stream);
}

}  // namespace farspan::kernels::cuda
