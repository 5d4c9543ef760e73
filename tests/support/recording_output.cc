// SPDX-License-Identifier: Apache-2.0
#include "tests/support/recording_output.h"

#include <gtest/gtest.h>

#include <utility>

namespace farspan {

void RecordingOutput::OnEvent(OutputEvent event) {
  EXPECT_FALSE(finished_.has_value()) << "an event came after the terminal one";
  if (auto* started = std::get_if<StartedEvent>(&event)) {
    EXPECT_FALSE(started_.has_value());
    started_ = *started;
  } else if (auto* progress = std::get_if<PrefillProgressEvent>(&event)) {
    prefill_progress_.push_back(progress->done_tokens);
    for (TokenLogprobs& logprobs : progress->prompt_logprobs) prompt_logprobs_.push_back(std::move(logprobs));
  } else if (auto* tokens = std::get_if<NewTokensEvent>(&event)) {
    const auto sample = static_cast<size_t>(tokens->sample);
    tokens_[sample].insert(tokens_[sample].end(), tokens->tokens.begin(), tokens->tokens.end());
    for (TokenLogprobs& logprobs : tokens->logprobs) logprobs_[sample].push_back(std::move(logprobs));
  } else {
    finished_ = std::get<FinishedEvent>(std::move(event));
  }
}

}  // namespace farspan
