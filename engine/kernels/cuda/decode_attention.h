// SPDX-License-Identifier: Apache-2.0
// Paged decode attention over entry lists, with the meaning of engine/kernels/args.h.
#pragma once

#include "engine/kernels/cuda/kernels.h"

namespace farspan::kernels::cuda {

// Memory for launches of up to `num_rows` rows. Unlike other workspaces it is zeroed once, when allocated, and then
// belongs to the decode launches of one stream: each leaves its counters at zero for the next.
int64_t DecodeAttentionWorkspaceBytes(int64_t num_rows, int64_t num_heads, int64_t num_kv_heads, int64_t head_dim);

// Streams keys and values through shared memory where the device is of compute capability 9.0, activations are bf16,
// the cache is not float32, head_dim and page_tokens are multiples of 16 and a group has at most 16 heads; else
// LaunchPlainDecodeAttention. Settled lists are read, and the keys and values that come first brought nearer, while
// kernels ahead in the stream go on. A row's result follows from its own list, the model's shape and the device alone.
// Grid and arguments do not depend on what device memory holds. Rows have distinct outputs, those whose lists are empty
// too: theirs become zero.
cudaError_t LaunchDecodeAttention(const DecodeAttentionArgs& args, Workspace workspace, cudaStream_t stream);

// The same, leaving states instead of outputs.
cudaError_t LaunchDecodeStates(const DecodeStatesArgs& args, Workspace workspace, cudaStream_t stream);

}  // namespace farspan::kernels::cuda
