// SPDX-License-Identifier: Apache-2.0
// The CUDA kernels, one launcher an op, with the meaning of engine/kernels/args.h; every pointer is device memory. A
// launch is enqueued on `stream`, allocates nothing and does not wait. What an output is never depends on other rows,
// but in Hopper's prefill attention, where rows of a tile share how their sums are kept, within rounding.
#pragma once

#include <cuda_runtime_api.h>

#include "engine/kernels/args.h"
#include "engine/kernels/draw_args.h"

namespace farspan::kernels::cuda {

// Device memory that a launch may overwrite. Its content means nothing before or after.
struct Workspace {
  void* data = nullptr;
  int64_t size_bytes = 0;
};

// cudaErrorInvalidValue when a shape is beyond what the kernel was built for; else the launch's own error.
cudaError_t LaunchFillRandom(const FillRandomArgs& args, cudaStream_t stream);
cudaError_t LaunchEmbed(const EmbedArgs& args, cudaStream_t stream);
cudaError_t LaunchRopeTable(const RopeTableArgs& args, cudaStream_t stream);
cudaError_t LaunchRopeAppend(const RopeAppendArgs& args, cudaStream_t stream);
cudaError_t LaunchKeyScores(const KeyScoresArgs& args, cudaStream_t stream);
cudaError_t LaunchFillKeyBounds(const FillKeyBoundsArgs& args, cudaStream_t stream);
// head_dim at most kMaxHeadDim.
cudaError_t LaunchMergeStates(const MergeStatesArgs& args, cudaStream_t stream);
cudaError_t LaunchCompactTokens(const CompactTokensArgs& args, cudaStream_t stream);
// head_dim at most kMaxHeadDim and even, page_tokens at most kMaxPageTokens; one warp a query at a time: what
// decode_attention.h falls back to.
cudaError_t LaunchPlainDecodeAttention(const DecodeAttentionArgs& args, cudaStream_t stream);
cudaError_t LaunchPlainDecodeStates(const DecodeStatesArgs& args, cudaStream_t stream);
cudaError_t LaunchPrefillAttention(const PrefillAttentionArgs& args, cudaStream_t stream);
// The grid depends on num_rows alone: rows beyond a batch's own are idle. Greedy tokens are those of the CPU, others
// where the uniform does not fall within rounding of a boundary.
cudaError_t LaunchDraw(const DrawArgs& args, const Workspace& workspace, cudaStream_t stream);
int64_t DrawWorkspaceBytes(int64_t num_rows, int64_t vocab_size);

inline constexpr int64_t kMaxHeadDim = 256;
inline constexpr int64_t kMaxPageTokens = 64;

}  // namespace farspan::kernels::cuda
