// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/cuda/stream_tiles.cuh"

namespace farspan::kernels::cuda {

template <>
cudaError_t StreamTiles<WeightType::kTiled5Min>(const StreamParams& params, cudaStream_t stream) {
  return LaunchTiledRows<WeightType::kTiled5Min>(params, stream);
}

}  // namespace farspan::kernels::cuda
