// SPDX-License-Identifier: Apache-2.0
// StepCost: how long steps last, learnt from those that ran, to bound the next one.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <optional>

#include "engine/base/clock.h"

namespace farspan {

// Engine thread only. A step costs a fixed time, a time a decode row and a time a prompt token, fitted to the latest
// steps by least squares, the newest counting most: a prompt token costs more the deeper it lies.
class StepCost {
 public:
  void Observe(SteadyDuration duration, int64_t decode_rows, int64_t prefill_tokens);

  // Prompt tokens that fit beside `decode_rows` in a step of `limit`; at least kLeastTokens, so that prompts advance
  // however slow the device is, and at most twice what a recent step took, so that one wrong guess costs little.
  int64_t PrefillTokensWithin(SteadyDuration limit, int64_t decode_rows) const;

  static constexpr int64_t kLeastTokens = 16;

 private:
  struct Step {
    double seconds = 0;
    double decode_rows = 0;
    double prefill_tokens = 0;
  };
  // Seconds: fixed, a decode row, a prompt token; none is below zero.
  std::array<double, 3> Fit() const;

  std::deque<Step> steps_;  // newest last
};

}  // namespace farspan
