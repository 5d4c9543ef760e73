// SPDX-License-Identifier: Apache-2.0
#include "engine/backend/cuda_layers.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/kernels/cuda/kernels.h"
#include "engine/kernels/cuda/linear.h"
#include "engine/kernels/weight_tiles.h"

namespace farspan {
namespace {

using kernels::Activation;
using kernels::WeightType;
using kernels::WeightView;
using kernels::cuda::NormedRows;

using kernels::cuda::kMaxStreamedRows;

// Up to here each block of a product norms its rows for itself.
constexpr int64_t kMaxSelfNormedRows = 4;

absl::Status FromLaunch(const char* what, cudaError_t error) {
  if (error == cudaSuccess) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(what, ": ", cudaGetErrorName(error)));
}

bool Streams(int64_t num_rows, std::span<const WeightView> weights) {
  return num_rows <= kMaxStreamedRows && std::all_of(weights.begin(), weights.end(), [&](const WeightView& w) {
           return w.type == WeightType::kBf16 || kernels::IsTiled(w.type);
         });
}

// Whether `next` lies right behind `weight` in memory, so that both are one matrix.
bool Continues(const WeightView& weight, const WeightView& next) {
  const auto* end =
      static_cast<const std::byte*>(weight.data) + weight.rows * kernels::WeightRowBytes(weight.type, weight.columns);
  return weight.type == next.type && weight.columns == next.columns && end == next.data;
}

}  // namespace

absl::Status CudaLayers::Norm(const NormedRows& input, int64_t num_rows, int64_t width, void* normed) {
  return FromLaunch("norm", kernels::cuda::LaunchNormRows(
                                {.input = input, .out = normed, .num_rows = num_rows, .width = width}, stream_));
}

absl::Status CudaLayers::MultiplyTiles(const void* x, const WeightView& weight, int64_t num_rows,
                                       const Target& target) {
  const int64_t row_bytes = weight.columns * 2;
  const int64_t part_rows = scratch_.size_bytes / row_bytes / kernels::kTileRows * kernels::kTileRows;
  if (part_rows == 0) return absl::InternalError(absl::StrCat("no room for rows of ", weight.columns, " weights"));
  for (int64_t first = 0; first < weight.rows; first += part_rows) {
    const WeightView part = {.data = scratch_.data,
                             .type = WeightType::kBf16,
                             .rows = std::min(part_rows, weight.rows - first),
                             .columns = weight.columns};
    FARSPAN_RETURN_IF_ERROR(
        FromLaunch("dequantize",
                   kernels::cuda::LaunchDequantize(
                       {.weight = weight, .first_row = first, .num_rows = part.rows, .out = scratch_.data}, stream_)));
    Target place = target;
    place.y = static_cast<std::byte*>(target.y) + first * (target.is_bf16 ? 2 : 4);
    FARSPAN_RETURN_IF_ERROR(Multiply(x, part, num_rows, place));
  }
  return absl::OkStatus();
}

absl::Status CudaLayers::Multiply(const void* x, const WeightView& weight, int64_t num_rows, const Target& target) {
  if (weight.type == WeightType::kBf16) {
    return gemm_->Run({.x = x,
                       .weight = weight.data,
                       .y = target.y,
                       .y_is_bf16 = target.is_bf16,
                       .accumulate = target.accumulate,
                       .num_rows = num_rows,
                       .num_outputs = weight.rows,
                       .num_columns = weight.columns,
                       .y_stride = target.stride},
                      stream_);
  }
  if (kernels::IsTiled(weight.type)) return MultiplyTiles(x, weight, num_rows, target);
  return FromLaunch("linear", kernels::cuda::LaunchPlainLinear({.x = x,
                                                                .weight = weight,
                                                                .y = target.y,
                                                                .y_is_bf16 = target.is_bf16,
                                                                .accumulate = target.accumulate,
                                                                .num_rows = num_rows,
                                                                .y_stride = target.stride},
                                                               stream_));
}

absl::Status CudaLayers::MultiplyAll(const void* x, std::span<const WeightView> weights, int64_t num_rows,
                                     Target target) {
  for (size_t begin = 0; begin < weights.size();) {
    WeightView joined = weights[begin];
    size_t end = begin + 1;
    while (end < weights.size() && Continues(joined, weights[end])) joined.rows += weights[end++].rows;
    FARSPAN_RETURN_IF_ERROR(Multiply(x, joined, num_rows, target));
    target.y = static_cast<std::byte*>(target.y) + joined.rows * (target.is_bf16 ? 2 : 4);
    begin = end;
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> CudaLayers::Stream(NormedRows input, const Rows& rows, const WeightsView& weights,
                                        absl::FunctionRef<cudaError_t(const NormedRows&)> launch) {
  const bool streams = Streams(rows.num_rows, weights);
  // A launch that does not fit into the device's shared memory is refused before it enqueues anything.
  cudaError_t error = cudaErrorInvalidValue;
  if (streams && rows.num_rows <= kMaxSelfNormedRows) error = launch(input);
  if (error == cudaErrorInvalidValue) {
    FARSPAN_RETURN_IF_ERROR(Norm(input, rows.num_rows, rows.width, rows.normed));
    if (streams) error = launch({.normed = rows.normed});
  }
  if (error == cudaErrorInvalidValue) return false;
  FARSPAN_RETURN_IF_ERROR(FromLaunch("streamed product", error));
  return true;
}

absl::Status CudaLayers::AttentionInput(const kernels::AttentionInputArgs& args) {
  const WeightView weights[] = {args.query, args.key, args.value};
  const NormedRows input = {.hidden = args.hidden, .weight = args.norm_weight, .epsilon = args.epsilon};
  const int64_t num_outputs = args.query.rows + args.key.rows + args.value.rows;
  const Rows rows = {.num_rows = args.num_rows, .width = args.query.columns, .normed = args.normed};
  const kernels::RopeAppendArgs append = {.qkv = args.projected,
                                          .cos_sin = args.cos_sin,
                                          .slots = args.slots,
                                          .q = args.q,
                                          .cache = args.cache,
                                          .num_rows = args.num_rows,
                                          .num_heads = args.num_heads,
                                          .rope_dim = args.rope_dim,
                                          .activation = Activation::kBf16};
  FARSPAN_ASSIGN_OR_RETURN(const bool streamed, Stream(input, rows, weights, [&](const NormedRows& normed) {
                             return kernels::cuda::LaunchNormLinear({.input = normed,
                                                                     .weights = {args.query, args.key, args.value},
                                                                     .num_weights = 3,
                                                                     .y = args.projected,
                                                                     .num_rows = args.num_rows,
                                                                     .append = &append},
                                                                    stream_);
                           }));
  if (streamed) return absl::OkStatus();
  FARSPAN_RETURN_IF_ERROR(
      MultiplyAll(args.normed, weights, args.num_rows, {.y = args.projected, .stride = num_outputs, .is_bf16 = true}));
  return FromLaunch("rotation", kernels::cuda::LaunchRopeAppend(append, stream_));
}

absl::Status CudaLayers::AttentionOutput(const kernels::AddLinearArgs& args) {
  if (Streams(args.num_rows, std::span(&args.weight, 1))) {
    const cudaError_t error = kernels::cuda::LaunchAddLinear(args, stream_);
    if (error != cudaErrorInvalidValue) return FromLaunch("attention output", error);
  }
  return Multiply(args.x, args.weight, args.num_rows,
                  {.y = args.hidden, .stride = args.weight.rows, .accumulate = true});
}

absl::Status CudaLayers::FeedForward(const kernels::FeedForwardArgs& args) {
  const WeightView weights[] = {args.gate, args.up};
  const NormedRows input = {.hidden = args.hidden, .weight = args.norm_weight, .epsilon = args.epsilon};
  const int64_t inner_width = args.gate.rows;
  const Rows rows = {.num_rows = args.num_rows, .width = args.gate.columns, .normed = args.normed};
  void* inner = args.inner;
  FARSPAN_ASSIGN_OR_RETURN(
      const bool streamed, Stream(input, rows, weights, [&](const NormedRows& normed) {
        return kernels::cuda::LaunchNormGateUp(
            {.input = normed, .gate = args.gate, .up = args.up, .inner = inner, .num_rows = args.num_rows}, stream_);
      }));
  if (!streamed) {
    FARSPAN_RETURN_IF_ERROR(MultiplyAll(args.normed, weights, args.num_rows,
                                        {.y = args.inner, .stride = 2 * inner_width, .is_bf16 = true}));
    inner = static_cast<std::byte*>(args.inner) + args.num_rows * 2 * inner_width * 2;
    FARSPAN_RETURN_IF_ERROR(FromLaunch(
        "gate",
        kernels::cuda::LaunchGateRows(
            {.gate_up = args.inner, .inner = inner, .num_rows = args.num_rows, .width = inner_width}, stream_)));
  }
  return AttentionOutput({.x = inner, .weight = args.down, .hidden = args.hidden, .num_rows = args.num_rows});
}

absl::Status CudaLayers::Logits(const kernels::LogitsArgs& args) {
  const NormedRows input = {
      .hidden = args.hidden, .weight = args.norm_weight, .epsilon = args.epsilon, .rows = args.rows};
  const Rows rows = {.num_rows = args.num_rows, .width = args.weight.columns, .normed = args.normed};
  FARSPAN_ASSIGN_OR_RETURN(const bool streamed,
                           Stream(input, rows, std::span(&args.weight, 1), [&](const NormedRows& normed) {
                             kernels::LogitsArgs logits = args;
                             if (normed.normed != nullptr) logits.hidden = nullptr;
                             return kernels::cuda::LaunchLogits(logits, stream_);
                           }));
  if (streamed) return absl::OkStatus();
  return Multiply(args.normed, args.weight, args.num_rows, {.y = args.logits, .stride = args.weight.rows});
}

}  // namespace farspan
