// SPDX-License-Identifier: Apache-2.0
// Keeps every event of one request. Read it once the request has ended, or between steps that the test runs itself.
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "engine/output.h"
#include "engine/request.h"

namespace farspan {

class RecordingOutput final : public OutputSink {
 public:
  void OnEvent(OutputEvent event) override;

  const std::vector<TokenId>& tokens(int sample = 0) const { return tokens_[static_cast<size_t>(sample)]; }
  const std::vector<TokenLogprobs>& logprobs(int sample = 0) const { return logprobs_[static_cast<size_t>(sample)]; }
  const std::vector<TokenLogprobs>& prompt_logprobs() const { return prompt_logprobs_; }
  const std::vector<int64_t>& prefill_progress() const { return prefill_progress_; }
  const std::optional<StartedEvent>& started() const { return started_; }
  const std::optional<FinishedEvent>& finished() const { return finished_; }

 private:
  std::optional<StartedEvent> started_;
  std::vector<int64_t> prefill_progress_;
  std::vector<TokenLogprobs> prompt_logprobs_;
  std::array<std::vector<TokenId>, kMaxSamples> tokens_;
  std::array<std::vector<TokenLogprobs>, kMaxSamples> logprobs_;
  std::optional<FinishedEvent> finished_;
};

}  // namespace farspan
