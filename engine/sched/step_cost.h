// SPDX-License-Identifier: Apache-2.0
// StepCost: how long steps last, learnt from those that ran, to bound the next one.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <optional>

#include "engine/base/clock.h"

namespace farspan {

// What a step computed.
struct StepWork {
  int64_t decode_rows = 0;
  int64_t prefill_tokens = 0;
  int64_t prefill_reads = 0;  // tokens that each of them read, summed
};

// What is left of a step's time for prompts.
struct ChunkBudget {
  int64_t tokens = 0;  // at most, whatever they cost
  double seconds = 0;  // infinite where there is no bound
  double seconds_per_token = 0;
  double seconds_per_read = 0;  // of a token that a token reads
  int64_t least_tokens = 0;     // that may be taken whatever they cost

  bool empty() const { return tokens <= 0 || (seconds <= 0 && least_tokens <= 0); }
  // Tokens that it holds of a prompt whose next one reads `depth_tokens`; one at least unless it is empty.
  int64_t TokensAt(int64_t depth_tokens) const;
  void Take(int64_t num_tokens, int64_t depth_tokens);
};

// Engine thread only. A step costs a fixed time, a time a decode row, a time a prompt token and a time for each token
// that a prompt token reads, fitted to the latest steps by least squares, the newest counting most.
class StepCost {
 public:
  void Observe(SteadyDuration duration, const StepWork& work);

  // For prompts beside `decode_rows` in a step of `limit` that takes `max_tokens` of them. At least kLeastTokens, so
  // that prompts advance however slow the device is, and at most twice what a recent step took, so that one wrong guess
  // costs little.
  ChunkBudget Budget(SteadyDuration limit, int64_t decode_rows, int64_t max_tokens) const;

  static constexpr int64_t kLeastTokens = 16;

 private:
  static constexpr size_t kNumTerms = 4;
  using Terms = std::array<double, kNumTerms>;
  struct Step {
    double seconds = 0;
    Terms terms{};  // 1, decode rows, prompt tokens, reads
  };
  // Seconds of each term; none is below zero.
  Terms Fit() const;

  std::deque<Step> steps_;  // newest last
};

}  // namespace farspan
