// SPDX-License-Identifier: Apache-2.0
#include "engine/logit_rows.h"

#include <algorithm>

#include "engine/base/check.h"
#include "engine/base/status_macros.h"

namespace farspan {

absl::StatusOr<std::span<float>> LogitRows::Row(int64_t row) {
  FARSPAN_CHECK(row >= slice_begin_ && row < num_rows_, "row=", row, " of ", num_rows_);
  if (row >= slice_begin_ + slice_rows_) {
    slice_begin_ = row;
    slice_rows_ = std::min(kMaxLogitRows, num_rows_ - row);
    FARSPAN_ASSIGN_OR_RETURN(slice_, model_->Logits(slice_begin_, slice_rows_));
  }
  const size_t vocab_size = slice_.size() / static_cast<size_t>(slice_rows_);
  return slice_.subspan(static_cast<size_t>(row - slice_begin_) * vocab_size, vocab_size);
}

}  // namespace farspan
