// SPDX-License-Identifier: Apache-2.0
// The portable ops, one per file; PortableKernels() gathers them.
#pragma once

#include "engine/kernels/args.h"
#include "engine/kernels/cpu/kernel_table.h"

namespace farspan::kernels::portable {

extern const KernelOp<FillRandomArgs> kFillRandom;
extern const KernelOp<EmbedArgs> kEmbed;
extern const KernelOp<RmsNormArgs> kRmsNorm;
extern const KernelOp<LinearArgs> kLinear;
extern const KernelOp<SiluMulArgs> kSiluMul;
extern const KernelOp<RopeTableArgs> kRopeTable;
extern const KernelOp<RopeArgs> kRope;
extern const KernelOp<KvAppendArgs> kKvAppend;
extern const KernelOp<FillKeyBoundsArgs> kFillKeyBounds;
extern const KernelOp<SelectionPass> kScoreKeyBounds;
extern const KernelOp<SelectionPass> kPickBlocks;
extern const KernelOp<KeyScoresArgs> kKeyScores;
extern const KernelOp<DecodePass> kDecodePartials;
extern const KernelOp<DecodePass> kDecodeMerge;
extern const KernelOp<DecodePass> kDecodeStates;
extern const KernelOp<MergeStatesArgs> kMergeStates;
extern const KernelOp<CompactTokensArgs> kCompactTokens;
extern const KernelOp<PrefillAttentionArgs> kPrefillAttention;

// out[i] = dequantised weight[row][i], for all columns.
void DequantizeRow(const WeightView& weight, int64_t row, float* out);

}  // namespace farspan::kernels::portable
