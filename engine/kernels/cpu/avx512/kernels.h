// SPDX-License-Identifier: Apache-2.0
// The AVX-512 ops, one per file; Avx512Kernels() gathers them, with AVX2's for the rest.
#pragma once

#include "engine/kernels/args.h"
#include "engine/kernels/cpu/kernel_table.h"

namespace farspan::kernels::avx512 {

extern const KernelOp<PackRowsArgs> kPackRows;
extern const KernelOp<LinearArgs> kLinear;
extern const KernelOp<DecodePass> kDecodePartials;
extern const KernelOp<PrefillAttentionArgs> kPrefillAttention;

}  // namespace farspan::kernels::avx512
