// SPDX-License-Identifier: Apache-2.0
// The AVX2 ops, one per file; Avx2Kernels() gathers them.
#pragma once

#include "engine/kernels/args.h"
#include "engine/kernels/cpu/kernel_table.h"

namespace farspan::kernels::avx2 {

extern const KernelOp<EmbedArgs> kEmbed;
extern const KernelOp<RmsNormArgs> kRmsNorm;
extern const KernelOp<LinearArgs> kLinear;
extern const KernelOp<SiluMulArgs> kSiluMul;
extern const KernelOp<RopeArgs> kRope;
extern const KernelOp<KvAppendArgs> kKvAppend;
extern const KernelOp<FillKeyBoundsArgs> kFillKeyBounds;
extern const KernelOp<SelectionPass> kScoreKeyBounds;
extern const KernelOp<SelectionPass> kPickBlocks;
extern const KernelOp<DecodePass> kDecodePartials;
extern const KernelOp<DecodePass> kDecodeMerge;
extern const KernelOp<PrefillAttentionArgs> kPrefillAttention;

}  // namespace farspan::kernels::avx2
