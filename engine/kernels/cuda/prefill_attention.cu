// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/cuda/prefill_attention.h"

#include "engine/kernels/cuda/kernels.h"
#include "engine/kernels/cuda/prefill_launch.h"
#include "engine/kernels/cuda/prefill_plan.cuh"

namespace farspan::kernels::cuda {

bool PortablePrefillSupports(const PrefillAttentionArgs& args) {
  const KvLayerView& cache = args.common.cache;
  const int64_t rows = cache.num_pages * cache.num_kv_heads * 2 * cache.page_tokens, head_dim = cache.head_dim;
  return cache.element != KvElement::kF32 && rows < (int64_t{1} << 31) && cache.page_tokens <= kMaxPageTokens &&
         args.common.scale > 0 && args.common.rope_dim % 2 == 0 &&
         (head_dim == 64 || head_dim == 80 || head_dim == 96 || head_dim == 128 || head_dim == 256);
}

cudaError_t LaunchPortablePrefillAttention(const PrefillAttentionArgs& args, cudaStream_t stream) {
  if (!PortablePrefillSupports(args)) return cudaErrorInvalidValue;
  if (args.num_tiles == 0) return cudaSuccess;
  switch (args.common.cache.element) {
    case KvElement::kBf16:
      return LaunchPrefillBf16(args, stream);
    case KvElement::kF16:
      return LaunchPrefillF16(args, stream);
    case KvElement::kF8E4M3:
      return LaunchPrefillF8(args, stream);
    case KvElement::kF32:
      break;
  }
  return cudaErrorInvalidValue;
}

cudaError_t LaunchPrefillAttention(const PrefillAttentionArgs& args, cudaStream_t stream) {
  // Where activations are float32, so is the arithmetic.
  if (args.common.activation == Activation::kBf16 && PortablePrefillSupports(args)) {
    return LaunchPortablePrefillAttention(args, stream);
  }
  return LaunchPlainPrefillAttention(args, stream);
}

}  // namespace farspan::kernels::cuda
