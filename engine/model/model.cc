// SPDX-License-Identifier: Apache-2.0
#include "engine/model/model.h"

#include <algorithm>
#include <utility>

#include "engine/base/check.h"
#include "engine/base/status_macros.h"

namespace farspan {

void Model::BeginStep(const ForwardBatch& batch, std::span<const DrawRequest> draws, KvCache& kv) {
  FARSPAN_CHECK(!ended_step_.has_value(), "a step before this one has not been ended");
  const absl::Status status = Forward(batch, kv);
  ended_step_ = status.ok() ? Draw(draws) : status;
}

absl::StatusOr<std::vector<DrawResult>> Model::EndStep() {
  FARSPAN_CHECK(ended_step_.has_value(), "no step has begun");
  absl::StatusOr<std::vector<DrawResult>> results = *std::move(ended_step_);
  ended_step_.reset();
  return results;
}

absl::StatusOr<std::vector<DrawResult>> Model::Draw(std::span<const DrawRequest> requests) {
  std::vector<DrawResult> results;
  results.reserve(requests.size());
  std::span<float> slice;
  int64_t slice_begin = 0;
  int64_t slice_rows = 0;
  for (const DrawRequest& request : requests) {
    if (!request.reads_logits()) {
      results.push_back(DrawFromLogits(request, {}));
      continue;
    }
    FARSPAN_CHECK(request.logit_row >= slice_begin, "row=", request.logit_row, " after ", slice_begin);
    if (request.logit_row >= slice_begin + slice_rows) {
      slice_begin = request.logit_row;
      slice_rows = std::min(kMaxLogitRows, requests.back().logit_row + 1 - slice_begin);
      FARSPAN_ASSIGN_OR_RETURN(slice, Logits(slice_begin, slice_rows));
    }
    const auto row = static_cast<size_t>(request.logit_row - slice_begin);
    const size_t vocab_size = slice.size() / static_cast<size_t>(slice_rows);
    results.push_back(DrawFromLogits(request, slice.subspan(row * vocab_size, vocab_size)));
  }
  return results;
}

}  // namespace farspan
