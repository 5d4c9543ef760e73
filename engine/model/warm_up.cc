// SPDX-License-Identifier: Apache-2.0
#include "engine/model/warm_up.h"

#include <algorithm>
#include <vector>

#include "engine/base/status_macros.h"
#include "engine/model/forward_batch.h"

namespace farspan {
namespace {

// Below these rows products are those of a decode step.
constexpr int64_t kMinPrefillRows = 32;

// Rows that write one slot and read it.
ForwardBatch RowsOfOneSlot(int64_t num_rows) {
  ForwardBatch batch;
  const auto size = static_cast<size_t>(num_rows);
  batch.token_ids.resize(size);
  batch.positions.resize(size);
  batch.kv_slots.resize(size, {.page = 0, .token = 0});
  batch.entries.push_back({.page = 0, .first_valid = 0, .num_valid = 1});
  return batch;
}

constexpr kernels::KvList kOneEntry = {.entries_begin = 0, .num_entries = 1};

ForwardBatch DecodeBatch(int64_t num_rows, const ModelShape& shape) {
  ForwardBatch batch = RowsOfOneSlot(num_rows);
  batch.decode_lists.resize(static_cast<size_t>(num_rows * shape.num_kv_heads), kOneEntry);
  for (int64_t row = 0; row < num_rows; ++row) {
    batch.decode_rows.push_back({.row = row, .position = 0, .left_window = kernels::kNoLeftWindow});
    batch.logit_rows.push_back(row);
  }
  return batch;
}

ForwardBatch PrefillBatch(int64_t num_rows, const ModelShape& shape) {
  ForwardBatch batch = RowsOfOneSlot(num_rows);
  constexpr int64_t kTile = kernels::kPrefillTileQueries;
  for (int64_t row = 0; row < num_rows; ++row) batch.positions[static_cast<size_t>(row)] = row;
  for (int64_t row = 0; row < num_rows; row += kTile) {
    batch.prefill_tiles.push_back({.row = row,
                                   .num_queries = std::min(kTile, num_rows - row),
                                   .first_position = row,
                                   .left_window = kernels::kNoLeftWindow});
  }
  batch.prefill_lists.resize(batch.prefill_tiles.size() * static_cast<size_t>(shape.num_heads), kOneEntry);
  batch.logit_rows.push_back(num_rows - 1);
  return batch;
}

// What is drawn means nothing.
absl::Status RunStep(const ForwardBatch& batch, Model* model, KvCache* kv) {
  std::vector<DrawRequest> draws(batch.logit_rows.size());
  for (size_t i = 0; i < draws.size(); ++i) draws[i].logit_row = static_cast<int64_t>(i);
  model->BeginStep(batch, draws, *kv);
  return model->EndStep().status();
}

}  // namespace

absl::Status WarmUp(const Backend& backend, int64_t max_sequences, Model* model, KvCache* kv) {
  if (backend.RecordedRows(1) == 0) return absl::OkStatus();
  const int64_t max_rows = std::min(model->max_batch_rows(), model->shape().max_context_tokens);
  for (int64_t rows = std::min(kMinPrefillRows, max_rows), last = 0; rows > last; rows = std::min(2 * rows, max_rows)) {
    FARSPAN_RETURN_IF_ERROR(RunStep(PrefillBatch(rows, model->shape()), model, kv));
    last = rows;
  }
  for (int64_t rows = 1; rows <= std::min(max_sequences, max_rows);) {
    const int64_t recorded_rows = std::min(backend.RecordedRows(rows), max_rows);
    if (recorded_rows < rows) break;
    FARSPAN_RETURN_IF_ERROR(RunStep(DecodeBatch(recorded_rows, model->shape()), model, kv));
    rows = recorded_rows + 1;
  }
  return absl::OkStatus();
}

}  // namespace farspan
