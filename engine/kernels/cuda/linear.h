// SPDX-License-Identifier: Apache-2.0
// The matrix products of a layer for few rows, fused with what stands before and after them: each weight is read once,
// at the speed of memory. Weights are bf16 or tiled; activations bf16, the residual stream and logits float32; sums are
// float32 in an order that follows from the weights' shape alone, so a row's result is the same in any batch. Device
// pointers, 16-byte aligned. Launches enqueue only, overlap their predecessor's tail and fit CUDA graphs.
#pragma once

#include <cuda_runtime_api.h>

#include "engine/kernels/args.h"

namespace farspan::kernels::cuda {

// Most rows that the launchers here take; beyond, a tensor-core GEMM is the better tool.
inline constexpr int64_t kMaxStreamedRows = 16;
inline constexpr int64_t kMaxJoinedWeights = 3;

// Rows of the residual stream with the norm that stands before a product.
struct NormedRows {
  const float* hidden = nullptr;  // [num_rows][columns], [...][columns] with `rows`
  const float* weight = nullptr;  // [columns]
  float epsilon = 0;
  const int64_t* rows = nullptr;  // [num_rows], which of hidden's rows; null: the first num_rows
  // bf16 [num_rows][columns]: the normed rows, where they are known; the rest is then not looked at. Each block norms
  // the rows for itself, which for more than a few costs more than a kernel that norms them once.
  const void* normed = nullptr;
};

// y[r] = the products of norm(hidden[r]) with every weight, one after the other.
struct NormLinearArgs {
  NormedRows input;
  WeightView weights[kMaxJoinedWeights];  // equal columns
  int64_t num_weights;
  void* y;  // bf16 [num_rows][sum of the weights' rows]
  int64_t num_rows;
  // Where the weights are those of queries, keys and values: what becomes of the products instead of y. Its own qkv and
  // activation are not looked at: queries are bf16.
  const RopeAppendArgs* append = nullptr;
};

// inner[r][i] = silu(gate[i] . n) * (up[i] . n) with n = norm(hidden[r]).
struct NormGateUpArgs {
  NormedRows input;
  WeightView gate;
  WeightView up;
  void* inner;  // bf16 [num_rows][gate.rows]
  int64_t num_rows;
};

// cudaErrorInvalidValue: more than kMaxStreamedRows rows, weights of other types, columns that are not a multiple of 8
// (64 for tiles), gate and up of different types, or normed rows that do not fit into one block's shared memory.
cudaError_t LaunchNormLinear(const NormLinearArgs& args, cudaStream_t stream);
cudaError_t LaunchNormGateUp(const NormGateUpArgs& args, cudaStream_t stream);
cudaError_t LaunchAddLinear(const AddLinearArgs& args, cudaStream_t stream);
// Leaves `normed` alone; without `hidden` it holds the chosen rows, normed.
cudaError_t LaunchLogits(const LogitsArgs& args, cudaStream_t stream);

// y[r][n] = sum over k of x[r][k] * weight[n][k] for weights of every type and any number of rows, slowly.
struct PlainLinearArgs {
  const void* x;  // bf16 [num_rows][weight.columns]
  WeightView weight;
  void* y;                  // [num_rows][y_stride]
  bool y_is_bf16 = false;   // else float32
  bool accumulate = false;  // float32 only
  int64_t num_rows;
  int64_t y_stride;
};
cudaError_t LaunchPlainLinear(const PlainLinearArgs& args, cudaStream_t stream);

// out[n][k] = bf16(weight[first_row + n][k]) of tiled weights, for products of many rows. first_row and num_rows are
// multiples of 16.
struct DequantizeArgs {
  WeightView weight;
  int64_t first_row;
  int64_t num_rows;
  void* out;  // bf16 [num_rows][weight.columns]
};
cudaError_t LaunchDequantize(const DequantizeArgs& args, cudaStream_t stream);
cudaError_t LaunchPackTiles(const PackTilesArgs& args, cudaStream_t stream);

// What stands between the products where there are more rows.
// out[r][i] = bf16(hidden[r][i] / sqrt(mean(hidden[r]^2) + epsilon) * weight[i]); width is a multiple of 8.
struct NormRowsArgs {
  NormedRows input;
  void* out;  // bf16 [num_rows][width]
  int64_t num_rows;
  int64_t width;
};
cudaError_t LaunchNormRows(const NormRowsArgs& args, cudaStream_t stream);

// inner[r][i] = bf16(silu(gate_up[r][i]) * gate_up[r][width + i]); width is a multiple of 8.
struct GateRowsArgs {
  const void* gate_up;  // bf16 [num_rows][2 * width]
  void* inner;          // bf16 [num_rows][width]
  int64_t num_rows;
  int64_t width;
};
cudaError_t LaunchGateRows(const GateRowsArgs& args, cudaStream_t stream);

}  // namespace farspan::kernels::cuda
