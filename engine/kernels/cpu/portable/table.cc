// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/cpu/portable/kernels.h"

namespace farspan::kernels {

const KernelTable& PortableKernels() {
  static const KernelTable table = {
      .name = "portable",
      .fill_random = portable::kFillRandom,
      .embed = portable::kEmbed,
      .rms_norm = portable::kRmsNorm,
      .pack_rows = {},
      .linear = portable::kLinear,
      .silu_mul = portable::kSiluMul,
      .rope_table = portable::kRopeTable,
      .rope = portable::kRope,
      .kv_append = portable::kKvAppend,
      .fill_key_bounds = portable::kFillKeyBounds,
      .score_key_bounds = portable::kScoreKeyBounds,
      .pick_blocks = portable::kPickBlocks,
      .decode_partials = portable::kDecodePartials,
      .decode_merge = portable::kDecodeMerge,
      .decode_states = portable::kDecodeStates,
      .merge_states = portable::kMergeStates,
      .compact_tokens = portable::kCompactTokens,
      .prefill_attention = portable::kPrefillAttention,
      .key_scores = portable::kKeyScores,
  };
  return table;
}

}  // namespace farspan::kernels
