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
  const std::string& text() const { return text_; }
  const std::vector<int32_t>& token_ids() const { return token_ids_; }

  // The fields of `started` and `finished` (what came of them), then text, token_ids and the log-probabilities asked
  // for.
  Json ToJson() const;

 private:
  const v1::OutputOptions asked_;
  bool complete_ = false;
  bool has_started_ = false;
  v1::GenerationStarted started_;
  v1::GenerationFinished finished_;
  std::string text_;
  std::vector<int32_t> token_ids_;
  Json logprobs_ = Json::array();
  Json prompt_logprobs_ = Json::array();
};

}  // namespace farspan::cli
