// SPDX-License-Identifier: Apache-2.0
#include "engine/backend/step_arrays.h"

#include <algorithm>

#include "engine/base/math.h"
#include "engine/kernels/args.h"
#include "engine/kernels/draw_args.h"

namespace farspan {
namespace {

constexpr int64_t kMaxBytes = int64_t{256} << 20;
// Each array begins at a multiple of 256 bytes.
constexpr int64_t kAlignmentBytes = 64 * 256;

template <typename T>
constexpr int64_t kBytes = static_cast<int64_t>(sizeof(T));

// Whatever the policies.
int64_t RowBytes(const ModelShape& shape, const StepLimits& limits) {
  const int64_t per_row = kBytes<int32_t> + kBytes<int64_t> + kBytes<kernels::KvSlot> + kBytes<kernels::DecodeRow> +
                          shape.num_kv_heads * kBytes<kernels::KvList> + kBytes<kernels::SelectorRow> +
                          kBytes<kernels::KeyRun> + kBytes<int64_t>;
  const int64_t tiles = CeilDiv(limits.max_rows, kernels::kPrefillTileQueries) + 2 * limits.max_sequences;
  const int64_t per_tile = kBytes<kernels::PrefillTile> + shape.num_heads * kBytes<kernels::KvList>;
  return limits.max_rows * per_row + tiles * per_tile + kernels::kMaxDrawRows * kBytes<kernels::DrawRow>;
}

// Of one sequence: its context and, of a row that chooses, what it may choose, what of it is summed up anew, or counts.
int64_t SequenceBytes(const ModelShape& shape) {
  constexpr int64_t kLeastChosenTokens = 4096, kChosenShare = 8, kPartialEntries = 8;
  const int64_t context = shape.max_context_tokens, run_tokens = kernels::KeyBoundsTokens(shape.page_tokens);
  const int64_t chosen = std::min(context, std::max(kLeastChosenTokens, context / kChosenShare));
  const int64_t context_entries = 2 * (CeilDiv(context, shape.page_tokens) + kPartialEntries);
  return (context_entries + shape.num_kv_heads * CeilDiv(chosen, run_tokens)) * kBytes<kernels::KvEntry> +
         CeilDiv(context, run_tokens) * kBytes<kernels::KeyRun> + chosen * kBytes<kernels::CountedToken>;
}

}  // namespace

int64_t StepArrayBytes(const ModelShape& shape, const StepLimits& limits) {
  const int64_t rows = RowBytes(shape, limits);
  // A tile of a window has a list of its own.
  const int64_t tile_entries = CeilDiv(limits.max_rows, kernels::kPrefillTileQueries) *
                               CeilDiv(shape.max_context_tokens, shape.page_tokens) * kBytes<kernels::KvEntry>;
  const int64_t lists = limits.max_sequences * SequenceBytes(shape) + tile_entries;
  return rows + kAlignmentBytes + std::min(lists, std::max<int64_t>(0, kMaxBytes - rows - kAlignmentBytes));
}

}  // namespace farspan
