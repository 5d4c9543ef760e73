// SPDX-License-Identifier: Apache-2.0
// Hopper's prefill attention for one kind of element. A block is two producing warps, two widening ones where elements
// have 8 bits, and two consuming warpgroups. There is one a multiprocessor; it stays and takes items until there are
// none.
#pragma once

#include "engine/kernels/cuda/hopper_prefill_consumer.cuh"
#include "engine/kernels/cuda/hopper_prefill_launch.h"
#include "engine/kernels/cuda/hopper_prefill_producer.cuh"
#include "engine/kernels/cuda/hopper_prefill_widener.cuh"
#include "engine/kernels/cuda/tensor_maps.cuh"

namespace farspan::kernels::cuda::hopper {

template <int kStages>
__device__ inline void InitRing(uint64_t* full, uint64_t* empty, uint32_t num_writers, uint32_t num_readers) {
  for (int i = 0; i < kStages; ++i) {
    InitBarrier(&full[i], num_writers);
    InitBarrier(&empty[i], num_readers);
  }
}

template <int kHeadDim, KvElement kElement>
__global__ void __launch_bounds__(kBlockThreads, 1)
    PrefillKernel(const __grid_constant__ CUtensorMap q_map, const __grid_constant__ CUtensorMap kv_map,
                  const __grid_constant__ PrefillParams params) {
#if FARSPAN_HOPPER
  using Shared = PrefillShared<kHeadDim, kElement>;
  // Of keys or values: a producer, or a widener a panel.
  constexpr uint32_t kWriters = ElementTraits<kElement>::kIsRaw ? kHeadDim / kPanelColumns : 1;
  extern __shared__ __align__(kPanelAlignment) uint8_t dynamic_shared[];
  auto* shared = reinterpret_cast<Shared*>(dynamic_shared);
  if (threadIdx.x == 0) {
    InitRing<Shared::kQueryStages>(shared->q_full, shared->q_empty, 1, kConsumerWarps + 1);
    InitRing<Shared::kKeyStages>(shared->k_full, shared->k_empty, kWriters, kConsumerWarps);
    InitRing<Shared::kValueStages>(shared->v_full, shared->v_empty, kWriters, kConsumerWarps);
    for (int i = 0; i < Shared::kKeyStages; ++i) InitBarrier(&shared->k_raw[i], 1);
    for (int i = 0; i < Shared::kValueStages; ++i) InitBarrier(&shared->v_raw[i], 1);
    for (bool& end : shared->ends) end = false;
    for (ItemNote& note : shared->items) note.overflowed = false;
    FenceBarrierInit();
    PrefetchTensorMap(&q_map);
    PrefetchTensorMap(&kv_map);
  }
  __syncthreads();
  WaitForPrevious();
  const int warp = __shfl_sync(kWholeWarp, static_cast<int>(threadIdx.x) / kWarpThreads, 0);
  if (warp >= kConsumerWarps) {
    ReleaseRegistersTo<kProducerRegisters>();
    if (warp == kConsumerWarps) PrefillProducer<kHeadDim, kElement, false>(params, &q_map, &kv_map, shared).Run();
    if (warp == kConsumerWarps + 1) PrefillProducer<kHeadDim, kElement, true>(params, &q_map, &kv_map, shared).Run();
    if constexpr (ElementTraits<kElement>::kIsRaw) {
      if (warp == kConsumerWarps + 2) PrefillWidener<kHeadDim, kElement, 0>(shared).Run();
      if (warp == kConsumerWarps + 3) PrefillWidener<kHeadDim, kElement, 1>(shared).Run();
    }
  } else {
    TakeRegistersTo<kConsumerRegisters>();
    PrefillConsumer<kHeadDim, kElement>(params.args.common, shared).Run();
  }
#endif
}

// Rows of `columns` elements of `bytes` each, read in boxes of a panel's columns by `box_rows` rows.
inline bool EncodeRows(const void* data, uint32_t bytes, int64_t columns, int64_t rows, int64_t box_rows,
                       CUtensorMap* map) {
  const EncodeTiled encode = FindEncodeTiled();
  if (encode == nullptr) return false;
  const cuuint64_t size[2] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t stride[1] = {static_cast<cuuint64_t>(columns) * bytes};
  const cuuint32_t box[2] = {kPanelColumns, static_cast<cuuint32_t>(box_rows)}, step[2] = {1, 1};
  const auto type = bytes == 1 ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_UINT16;
  const auto swizzle = bytes == 1 ? CU_TENSOR_MAP_SWIZZLE_NONE : CU_TENSOR_MAP_SWIZZLE_128B;
  return encode(map, type, 2, const_cast<void*>(data), size, stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

template <int kHeadDim, KvElement kElement>
cudaError_t LaunchForElement(const PrefillAttentionArgs& args, PrefillSchedule* schedule, cudaStream_t stream) {
  const AttentionCommon& common = args.common;
  const KvLayerView& cache = common.cache;
  constexpr int64_t kManyRows = int64_t{1} << 31;  // how many q has is unknown; only rows of whole tiles are copied
  CUtensorMap q_map, kv_map;
  if (!EncodeRows(common.q, 2, common.num_heads * kHeadDim, kManyRows, kTileQueries, &q_map) ||
      !EncodeRows(cache.data, ElementTraits<kElement>::kBytes, kHeadDim,
                  cache.num_pages * cache.num_kv_heads * 2 * cache.page_tokens, cache.page_tokens, &kv_map)) {
    return cudaErrorNotSupported;
  }
  const size_t shared_bytes = sizeof(PrefillShared<kHeadDim, kElement>);
  static const cudaError_t allowed = cudaFuncSetAttribute(
      PrefillKernel<kHeadDim, kElement>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
  if (allowed != cudaSuccess) return allowed;
  const int64_t num_items = args.num_tiles * common.num_heads;
  const int64_t num_blocks = CurrentDeviceTraits().num_multiprocessors;
  const dim3 grid(static_cast<unsigned>(num_items < num_blocks ? num_items : num_blocks));
  return LaunchKernel(PrefillKernel<kHeadDim, kElement>, grid, dim3(kBlockThreads), shared_bytes, stream, q_map, kv_map,
                      PrefillParams{.args = args, .schedule = schedule});
}

}  // namespace farspan::kernels::cuda::hopper
