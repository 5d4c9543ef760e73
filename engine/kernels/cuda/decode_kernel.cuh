// SPDX-License-Identifier: Apache-2.0
// The decode kernel and its launch for one element of the cache.
#pragma once

#include <algorithm>

#include "engine/kernels/cuda/decode_consumer.cuh"
#include "engine/kernels/cuda/decode_launch.h"
#include "engine/kernels/cuda/decode_producer.cuh"

namespace farspan::kernels::cuda::decode {

template <int kDim, int kHeadTiles, typename Element>
__global__ void __launch_bounds__(kThreads, (Shared<kDim, kHeadTiles, Element>::kBlocksPerMultiprocessor))
    DecodeKernel(const __grid_constant__ CUtensorMap map, const __grid_constant__ DecodeAttentionArgs args,
                 const __grid_constant__ Plan plan) {
#ifdef FARSPAN_SM90_BODY
  using SharedMemory = Shared<kDim, kHeadTiles, Element>;
  extern __shared__ __align__(1024) uint8_t shared_bytes[];
  SharedMemory& shared = *reinterpret_cast<SharedMemory*>(shared_bytes);
  if (threadIdx.x == 0) {
    PrefetchTensorMap(&map);
    for (int i = 0; i < SharedMemory::kStages; ++i) {
      InitBarrier(&shared.stage_full[i], 1);
      InitBarrier(&shared.stage_empty[i], kConsumerWarps);
    }
    for (int i = 0; i < kItemsAhead; ++i) {
      InitBarrier(&shared.item_full[i], 1);
      InitBarrier(&shared.item_empty[i], kConsumerWarps);
    }
    FenceBarrierInit();
  }
  LetNextStart();
  if (!args.lists_are_settled) WaitForPrevious();
  const int num_items = CountItems(args, plan, shared);
  const bool has_item = static_cast<int>(blockIdx.x) < num_items, fetches = threadIdx.x >= kConsumerThreads;
  if (args.lists_are_settled && !(has_item && fetches)) WaitForPrevious();  // who fetches does so later
  if (!has_item) return;
  if (!fetches) {
    Consumer<kDim, kHeadTiles, Element>(args, plan, &shared).Run();
  } else {
    Producer<SharedMemory>(args, plan, &map, &shared).Run(num_items);
  }
#endif
}

template <int kDim, int kHeadTiles, typename Element>
cudaError_t LaunchFor(const DecodeAttentionArgs& args, const Plan& plan, cudaStream_t stream) {
  using SharedMemory = Shared<kDim, kHeadTiles, Element>;
  const auto kernel = DecodeKernel<kDim, kHeadTiles, Element>;
  static const cudaError_t opted_in =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(SharedMemory));
  if (opted_in != cudaSuccess) return opted_in;
  CUtensorMap map;
  if (!EncodeCache(args.common.cache, kDim, &map)) return cudaErrorInvalidValue;
  const int64_t blocks = int64_t{CurrentDeviceTraits().num_multiprocessors} * SharedMemory::kBlocksPerMultiprocessor;
  const int64_t most_items = int64_t{plan.num_lists} * plan.max_splits;
  return LaunchKernel(kernel, dim3(static_cast<unsigned>(std::min(blocks, most_items))), dim3(kThreads),
                      sizeof(SharedMemory), stream, map, args, plan);
}

template <int kDim, typename Element>
cudaError_t LaunchForGroup(const DecodeAttentionArgs& args, const Plan& plan, cudaStream_t stream) {
  return plan.group <= kHeadTile ? LaunchFor<kDim, 1, Element>(args, plan, stream)
                                 : LaunchFor<kDim, 2, Element>(args, plan, stream);
}

template <typename Element>
cudaError_t LaunchForElement(const DecodeAttentionArgs& args, const Plan& plan, cudaStream_t stream) {
  const int64_t head_dim = args.common.cache.head_dim;
  if constexpr (Element::kBytes > 1) {
    if (head_dim <= 64) return LaunchForGroup<64, Element>(args, plan, stream);
  }
  return head_dim <= 128 ? LaunchForGroup<128, Element>(args, plan, stream)
                         : LaunchForGroup<256, Element>(args, plan, stream);
}

}  // namespace farspan::kernels::cuda::decode
