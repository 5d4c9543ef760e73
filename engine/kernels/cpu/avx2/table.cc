// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/cpu/avx2/kernels.h"

namespace farspan::kernels {

const KernelTable& Avx2Kernels() {
  static const KernelTable table = {
      .name = "avx2",
      .fill_random = PortableKernels().fill_random,  // before serving begins
      .embed = avx2::kEmbed,
      .rms_norm = avx2::kRmsNorm,
      .pack_rows = {},
      .linear = avx2::kLinear,
      .silu_mul = avx2::kSiluMul,
      .rope_table = PortableKernels().rope_table,  // float64 sine and cosine: nothing to gain from vectors
      .rope = avx2::kRope,
      .kv_append = avx2::kKvAppend,
      .fill_key_bounds = avx2::kFillKeyBounds,
      .score_key_bounds = avx2::kScoreKeyBounds,
      .pick_blocks = avx2::kPickBlocks,
      .decode_partials = avx2::kDecodePartials,
      .decode_merge = avx2::kDecodeMerge,
      .decode_states = PortableKernels().decode_states,    // a split's states are few beside its keys
      .merge_states = PortableKernels().merge_states,      // the same
      .compact_tokens = PortableKernels().compact_tokens,  // copies memory
      .prefill_attention = avx2::kPrefillAttention,
      .key_scores = PortableKernels().key_scores,  // for analysis and once a prompt, not in every step
  };
  return table;
}

}  // namespace farspan::kernels
