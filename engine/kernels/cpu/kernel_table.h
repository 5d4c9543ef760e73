// SPDX-License-Identifier: Apache-2.0
// The CPU kernels of one ISA level as a table of function pointers: every level has the same ops with the same meaning,
// so a backend picks a table once. Immutable. Nothing here allocates, locks or starts a thread.
#pragma once

#include <cstdint>

#include "engine/kernels/args.h"
#include "engine/kernels/cpu/decode_splits.h"
#include "engine/kernels/cpu/score_tiles.h"

namespace farspan::kernels {

// One op, cut into num_tasks(args) independent tasks that may run in any order on any threads: what an output is never
// depends on the cut. `scratch` belongs to the running thread: scratch_bytes(args) uninitialised bytes, 64-byte
// aligned.
template <typename Args>
struct KernelOp {
  int64_t (*num_tasks)(const Args& args);
  int64_t (*scratch_bytes)(const Args& args);
  void (*run)(const Args& args, int64_t task, void* scratch);
};

struct KernelTable {
  const char* name;  // "portable", "avx2", "avx512"
  KernelOp<FillRandomArgs> fill_random;
  KernelOp<EmbedArgs> embed;
  KernelOp<RmsNormArgs> rms_norm;
  KernelOp<PackRowsArgs> pack_rows;  // null functions where panels are multiplied by x itself
  KernelOp<LinearArgs> linear;
  KernelOp<SiluMulArgs> silu_mul;
  KernelOp<RopeTableArgs> rope_table;
  KernelOp<RopeArgs> rope;
  KernelOp<KvAppendArgs> kv_append;
  KernelOp<FillKeyBoundsArgs> fill_key_bounds;
  KernelOp<SelectionPass> score_key_bounds;  // fills SelectionPass::scores; all tasks end before picking begins
  KernelOp<SelectionPass> pick_blocks;       // scores, which it overwrites, to lists
  KernelOp<DecodePass> decode_partials;      // fills DecodePass::partials; all tasks end before the merge begins
  KernelOp<DecodePass> decode_merge;         // partials to out and lse
  KernelOp<DecodePass> decode_states;        // partials to states and lse
  KernelOp<MergeStatesArgs> merge_states;
  KernelOp<CompactTokensArgs> compact_tokens;  // the tokens alone: the bounds are those of fill_key_bounds
  KernelOp<PrefillAttentionArgs> prefill_attention;
  KernelOp<KeyScoresArgs> key_scores;
};

// Plain loops for any CPU: the oracle that the other levels are tested against.
const KernelTable& PortableKernels();

// AVX2, FMA and F16C. Call only where CpuHasAvx2().
const KernelTable& Avx2Kernels();

// AVX-512 (F, BW, DQ, VL, VNNI) on top of AVX2. Call only where CpuHasAvx512().
const KernelTable& Avx512Kernels();

// True when this build has the kernels of a level and this CPU and operating system run them.
bool CpuHasAvx2();
bool CpuHasAvx512();

}  // namespace farspan::kernels
