// SPDX-License-Identifier: Apache-2.0
// A block is two producing warps and two consuming warpgroups. There is one a multiprocessor; it stays and takes items
// until there are none.
#include "engine/kernels/cuda/hopper_prefill_attention.h"

#include "engine/kernels/cuda/hopper_prefill_consumer.cuh"
#include "engine/kernels/cuda/hopper_prefill_producer.cuh"
#include "engine/kernels/cuda/tensor_maps.cuh"

namespace farspan::kernels::cuda {
namespace hopper {
namespace {

template <int kStages>
__device__ inline void InitRing(uint64_t* full, uint64_t* empty, uint32_t num_readers) {
  for (int i = 0; i < kStages; ++i) {
    InitBarrier(&full[i], 1);
    InitBarrier(&empty[i], num_readers);
  }
}

template <int kHeadDim>
__global__ void __launch_bounds__(kBlockThreads, 1)
    PrefillKernel(const __grid_constant__ CUtensorMap q_map, const __grid_constant__ CUtensorMap kv_map,
                  const __grid_constant__ PrefillParams params) {
#if FARSPAN_HOPPER
  using Shared = PrefillShared<kHeadDim>;
  extern __shared__ __align__(kPanelAlignment) uint8_t dynamic_shared[];
  auto* shared = reinterpret_cast<Shared*>(dynamic_shared);
  if (threadIdx.x == 0) {
    InitRing<Shared::kQueryStages>(shared->q_full, shared->q_empty, kConsumerWarps + 1);
    InitRing<Shared::kKeyStages>(shared->k_full, shared->k_empty, kConsumerWarps);
    InitRing<Shared::kValueStages>(shared->v_full, shared->v_empty, kConsumerWarps);
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
    if (warp == kConsumerWarps) PrefillProducer<kHeadDim, false>(params, &q_map, &kv_map, shared).Run();
    if (warp == kConsumerWarps + 1) PrefillProducer<kHeadDim, true>(params, &q_map, &kv_map, shared).Run();
  } else {
    TakeRegistersTo<kConsumerRegisters>();
    PrefillConsumer<kHeadDim>(params.args.common, shared).Run();
  }
#endif
}

// Heads whose keys and values the L2 cache holds together are worked at together, unless so few items are left of the
// last ones that most blocks would wait for a long one.
__device__ uint32_t NumSections(const PrefillAttentionArgs& args, int64_t longest_tile, int64_t longest, int64_t total,
                                int64_t num_blocks) {
  constexpr int64_t kCachedBytes = int64_t{32} << 20;
  const KvLayerView& cache = args.common.cache;
  const int64_t context_entries = args.lists[longest_tile * args.common.num_heads].num_entries;
  const int64_t kv_head_bytes = (context_entries + 1) * cache.page_tokens * cache.head_dim * 4;
  const int64_t sections = (cache.num_kv_heads * kv_head_bytes + kCachedBytes - 1) / kCachedBytes;
  if (4 * longest * num_blocks > total * args.common.num_heads) return 1;
  return static_cast<uint32_t>(sections < cache.num_kv_heads ? sections : cache.num_kv_heads);
}

// One block. Ranks tiles by how many entries their first head reads.
__global__ void ScheduleKernel(const __grid_constant__ PrefillAttentionArgs args, int64_t num_blocks,
                               PrefillSchedule* schedule) {
  __shared__ int64_t lengths[kMostOrderedTiles];
  WaitForPrevious();
  LetNextStart();
  const int num_tiles = static_cast<int>(args.num_tiles), tile = static_cast<int>(threadIdx.x);
  if (tile == 0) schedule->items_taken = 0;
  if (num_tiles > kMostOrderedTiles) {
    if (tile == 0) schedule->num_sections = NumSections(args, num_tiles - 1, 1, num_tiles, num_blocks);
    return;
  }
  if (tile < num_tiles) {
    const int64_t index = tile * args.common.num_heads;
    const int64_t kept = args.kept_ranges == nullptr ? kAllBlocks : args.kept_ranges[index].num_blocks;
    const int64_t num_entries = args.lists[index].num_entries;
    lengths[tile] = kept == kAllBlocks ? num_entries : kept * MaskBlockEntries(args.common.cache.page_tokens);
  }
  __syncthreads();
  if (tile >= num_tiles) return;
  int rank = 0;
  int64_t total = 0;
  for (int other = 0; other < num_tiles; ++other) {
    rank += lengths[other] > lengths[tile] || (lengths[other] == lengths[tile] && other > tile) ? 1 : 0;
    total += lengths[other];
  }
  schedule->longest_first[rank] = tile;
  if (rank == 0) schedule->num_sections = NumSections(args, tile, lengths[tile], total, num_blocks);
}

// Rows of `columns` bf16, read in boxes of a panel's columns by `box_rows` rows.
bool EncodeRows(const void* data, int64_t columns, int64_t rows, int64_t box_rows, CUtensorMap* map) {
  const EncodeTiled encode = FindEncodeTiled();
  if (encode == nullptr) return false;
  const cuuint64_t size[2] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t stride[1] = {static_cast<cuuint64_t>(columns) * 2};
  const cuuint32_t box[2] = {kPanelColumns, static_cast<cuuint32_t>(box_rows)}, step[2] = {1, 1};
  return encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void*>(data), size, stride, box, step,
                CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

template <int kHeadDim>
cudaError_t Launch(const PrefillAttentionArgs& args, PrefillSchedule* schedule, cudaStream_t stream) {
  const AttentionCommon& common = args.common;
  const KvLayerView& cache = common.cache;
  constexpr int64_t kManyRows = int64_t{1} << 31;  // how many q has is unknown; only rows of whole tiles are copied
  CUtensorMap q_map, kv_map;
  if (!EncodeRows(common.q, common.num_heads * kHeadDim, kManyRows, kTileQueries, &q_map) ||
      !EncodeRows(cache.data, kHeadDim, cache.num_pages * cache.num_kv_heads * 2 * cache.page_tokens, cache.page_tokens,
                  &kv_map)) {
    return cudaErrorNotSupported;
  }
  const size_t shared_bytes = sizeof(PrefillShared<kHeadDim>);
  static const cudaError_t allowed = cudaFuncSetAttribute(
      PrefillKernel<kHeadDim>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
  if (allowed != cudaSuccess) return allowed;
  const int64_t num_items = args.num_tiles * common.num_heads;
  const int64_t num_blocks = CurrentDeviceTraits().num_multiprocessors;
  const auto schedulers =
      static_cast<unsigned>(args.num_tiles < kMostOrderedTiles ? args.num_tiles : kMostOrderedTiles);
  const cudaError_t scheduled =
      LaunchKernel(ScheduleKernel, dim3(1), dim3(schedulers), 0, stream, args, num_blocks, schedule);
  if (scheduled != cudaSuccess) return scheduled;
  const dim3 grid(static_cast<unsigned>(num_items < num_blocks ? num_items : num_blocks));
  return LaunchKernel(PrefillKernel<kHeadDim>, grid, dim3(kBlockThreads), shared_bytes, stream, q_map, kv_map,
                      PrefillParams{.args = args, .schedule = schedule});
}

}  // namespace
}  // namespace hopper

int64_t HopperPrefillWorkspaceBytes() { return sizeof(hopper::PrefillSchedule); }

bool HopperPrefillSupports(const PrefillAttentionArgs& args) {
  const AttentionCommon& common = args.common;
  const KvLayerView& cache = common.cache;
  const int64_t rows = cache.num_pages * cache.num_kv_heads * 2 * cache.page_tokens;
  return CurrentDeviceTraits().runs_hopper_code() && common.activation == Activation::kBf16 &&
         cache.element == KvElement::kBf16 && (cache.head_dim == 64 || cache.head_dim == 128) &&
         (cache.page_tokens == 16 || cache.page_tokens == 32 || cache.page_tokens == 64) &&
         reinterpret_cast<uintptr_t>(common.q) % 16 == 0 && reinterpret_cast<uintptr_t>(common.out) % 16 == 0 &&
         rows < int64_t{1} << 31 && common.rope_dim % 2 == 0 && common.scale > 0 && FindEncodeTiled() != nullptr;
}

cudaError_t LaunchHopperPrefillAttention(const PrefillAttentionArgs& args, Workspace workspace, cudaStream_t stream) {
  if (!HopperPrefillSupports(args) || workspace.size_bytes < HopperPrefillWorkspaceBytes()) {
    return cudaErrorInvalidValue;
  }
  if (args.num_tiles == 0) return cudaSuccess;
  auto* schedule = static_cast<hopper::PrefillSchedule*>(workspace.data);
  return args.common.cache.head_dim == 64 ? hopper::Launch<64>(args, schedule, stream)
                                          : hopper::Launch<128>(args, schedule, stream);
}

}  // namespace farspan::kernels::cuda
