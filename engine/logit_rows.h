// SPDX-License-Identifier: Apache-2.0
// The logits of one batch, row by row, computed in slices of at most kMaxLogitRows so that neither memory nor the
// number of passes over the output matrix grows with the batch.
#pragma once

#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "engine/model/model.h"

namespace farspan {

// Engine thread only. Valid until the model's next Forward.
class LogitRows {
 public:
  // `num_rows` is the last batch's number of logit rows. The model outlives this.
  LogitRows(Model* model, int64_t num_rows) : model_(model), num_rows_(num_rows) {}

  // [vocab_size] of the row, valid until a row of another slice is asked for; the caller may overwrite it. Ask in
  // ascending order: a slice is computed once.
  absl::StatusOr<std::span<float>> Row(int64_t row);

 private:
  Model* const model_;
  const int64_t num_rows_;
  int64_t slice_begin_ = 0;
  int64_t slice_rows_ = 0;
  std::span<float> slice_;
};

}  // namespace farspan
