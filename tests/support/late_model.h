// SPDX-License-Identifier: Apache-2.0
// A model that answers one step late, as a device does that is kept one step ahead: each step is computed when it
// begins, in order, and the token ids that it draws stay inside until it is ended.
#pragma once

#include <deque>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "engine/base/check.h"
#include "engine/model/model.h"

namespace farspan {

class LateModel final : public Model {
 public:
  explicit LateModel(std::unique_ptr<Model> real) : real_(std::move(real)) {}

  const ModelShape& shape() const override { return real_->shape(); }
  const ModelInfo& info() const override { return real_->info(); }
  int64_t max_batch_rows() const override { return real_->max_batch_rows(); }
  absl::Status Forward(const ForwardBatch& batch, KvCache& kv) override { return real_->Forward(batch, kv); }
  absl::StatusOr<std::span<float>> Logits(int64_t first, int64_t count) override { return real_->Logits(first, count); }

  int64_t max_steps_in_flight() const override { return 2; }
  void BeginStep(const ForwardBatch& batch, std::span<const DrawRequest> draws, KvCache& kv) override {
    FARSPAN_CHECK(std::ssize(steps_) < max_steps_in_flight(), "steps=", steps_.size());
    ForwardBatch resolved = batch;
    for (TokenId& id : resolved.token_ids) {
      if (id < 0) id = DrawnAt(-1 - id);
    }
    // What runs behind a step that failed reads what was not written.
    absl::Status status = steps_.empty() ? absl::OkStatus() : steps_.back().results.status();
    if (status.ok()) status = real_->Forward(resolved, kv);
    Step& step = steps_.emplace_back();
    if (status.ok()) {
      step.results = real_->Draw(draws);
    } else {
      step.results = status;
    }
    for (const DrawRequest& draw : draws) step.rows.push_back(draw.given_token ? kNotDrawn : draw.logit_row);
    last_ = steps_.back();
  }
  absl::StatusOr<std::vector<DrawResult>> EndStep() override {
    FARSPAN_CHECK(!steps_.empty());
    absl::StatusOr<std::vector<DrawResult>> results = std::move(steps_.front().results);
    steps_.pop_front();
    return results;
  }

 private:
  static constexpr int64_t kNotDrawn = -1;
  struct Step {
    absl::StatusOr<std::vector<DrawResult>> results;
    std::vector<int64_t> rows;  // of each draw, where it is drawn
  };

  // Behind a step or a draw that failed any token does: nobody gets what comes of it.
  TokenId DrawnAt(int64_t row) const {
    if (!last_.results.ok()) return 0;
    for (size_t i = 0; i < last_.rows.size(); ++i) {
      const DrawResult& result = (*last_.results)[i];
      if (last_.rows[i] == row) return result.ok() ? result->token : 0;
    }
    FARSPAN_CHECK(false, "the step before draws nothing from row ", row);
  }

  const std::unique_ptr<Model> real_;
  std::deque<Step> steps_;
  Step last_;
};

}  // namespace farspan
