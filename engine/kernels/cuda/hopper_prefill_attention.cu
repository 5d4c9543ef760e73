// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/cuda/hopper_prefill_attention.h"

#include "engine/kernels/cuda/device.cuh"
#include "engine/kernels/cuda/hopper_prefill_launch.h"
#include "engine/kernels/cuda/tensor_maps.cuh"

namespace farspan::kernels::cuda {
namespace hopper {
namespace {

// Heads whose keys and values the L2 cache holds together are worked at together, unless so few items are left of the
// last ones that most blocks would wait for a long one.
__device__ uint32_t NumSections(const PrefillAttentionArgs& args, int64_t longest_tile, int64_t longest, int64_t total,
                                int64_t num_blocks) {
  constexpr int64_t kCachedBytes = int64_t{32} << 20;
  const KvLayerView& cache = args.common.cache;
  const int64_t context_entries = args.lists[longest_tile * args.common.num_heads].num_entries;
  const int64_t kv_head_bytes = (context_entries + 1) * cache.page_tokens * cache.head_dim * 2 * cache.element_bytes();
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

template <int kHeadDim>
cudaError_t LaunchScheduled(const PrefillAttentionArgs& args, PrefillSchedule* schedule, cudaStream_t stream) {
  const auto schedulers =
      static_cast<unsigned>(args.num_tiles < kMostOrderedTiles ? args.num_tiles : kMostOrderedTiles);
  const int64_t num_blocks = CurrentDeviceTraits().num_multiprocessors;
  const cudaError_t scheduled =
      LaunchKernel(ScheduleKernel, dim3(1), dim3(schedulers), 0, stream, args, num_blocks, schedule);
  if (scheduled != cudaSuccess) return scheduled;
  switch (args.common.cache.element) {
    case KvElement::kBf16:
      return LaunchBf16<kHeadDim>(args, schedule, stream);
    case KvElement::kF16:
      return LaunchF16<kHeadDim>(args, schedule, stream);
    case KvElement::kF8E4M3:
      return LaunchF8<kHeadDim>(args, schedule, stream);
    case KvElement::kF32:
      break;
  }
  return cudaErrorInvalidValue;
}

}  // namespace
}  // namespace hopper

int64_t HopperPrefillWorkspaceBytes() { return sizeof(hopper::PrefillSchedule); }

bool HopperPrefillSupports(const PrefillAttentionArgs& args) {
  const AttentionCommon& common = args.common;
  const KvLayerView& cache = common.cache;
  const int64_t rows = cache.num_pages * cache.num_kv_heads * 2 * cache.page_tokens;
  return CurrentDeviceTraits().runs_hopper_code() && common.activation == Activation::kBf16 &&
         cache.element != KvElement::kF32 && (cache.head_dim == 64 || cache.head_dim == 128) &&
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
  return args.common.cache.head_dim == 64 ? hopper::LaunchScheduled<64>(args, schedule, stream)
                                          : hopper::LaunchScheduled<128>(args, schedule, stream);
}

}  // namespace farspan::kernels::cuda
