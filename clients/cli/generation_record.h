// SPDX-License-Identifier: Apache-2.0
// Everything that one generation's events said.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "clients/cli/json.h"
#include "farspan/v1/inference.pb.h"

namespace farspan::cli {

class GenerationRecord {
 public:
  explicit GenerationRecord(const v1::OutputOptions& asked) : asked_(asked) {}

  void Add(const v1::GenerateResponse& event);

  bool complete() const { return complete_; }
  const v1::GenerationStarted& started() const { return started_; }
  const v1::GenerationFinished& finished() const { return finished_; }
  // Of the first sample.
  const std::string& text() const { return samples_.front().text; }
  size_t num_samples() const { return samples_.size(); }
  const std::string& text(size_t sample) const { return samples_[sample].text; }

  // The fields of `started` and `finished` (what came of them), then text, token_ids and the log-probabilities asked
  // for. Of several samples each has its own in `samples`, and the first one's stand at the top too.
  Json ToJson() const;

 private:
  struct Sample {
    std::string text;
    std::vector<int32_t> token_ids;
    Json logprobs = Json::array();
  };

  void AddDelta(const v1::GenerationDelta& delta);
  void PutSample(const Sample& sample, Json* json) const;

  const v1::OutputOptions asked_;
  bool complete_ = false;
  bool has_started_ = false;
  v1::GenerationStarted started_;
  v1::GenerationFinished finished_;
  std::vector<Sample> samples_{1};
  Json prompt_logprobs_ = Json::array();
};

}  // namespace farspan::cli
