// SPDX-License-Identifier: Apache-2.0
// The choice of blocks on the device, with the meaning of engine/kernels/args.h.
#pragma once

#include "engine/kernels/cuda/kernels.h"

namespace farspan::kernels::cuda {

// Where no row has more than `max_blocks` blocks.
int64_t SelectBlocksWorkspaceBytes(int64_t num_rows, int64_t num_heads, int64_t num_kv_heads, int64_t max_blocks);

// Two launches. Grid and arguments do not depend on what device memory holds. `rows` and the entries of contexts are
// read before the kernels ahead in the stream have ended: copies write them, kernels do not. Scores are float32 sums
// over channels in an order of their own, so two blocks whose CPU scores differ by rounding alone may swap places;
// where sums are exact the choice is the CPU's, ties included. A row's choice never depends on the other rows.
cudaError_t LaunchSelectBlocks(const SelectBlocksArgs& args, int64_t max_blocks, Workspace workspace,
                               cudaStream_t stream);

}  // namespace farspan::kernels::cuda
