// SPDX-License-Identifier: Apache-2.0
// StepCost: how long steps last, learnt from those that ran, to bound the next one.
#pragma once

#include <cstdint>

#include "engine/base/clock.h"

namespace farspan {

// Engine thread only. A prompt token costs more the deeper it lies; recent steps count most.
class StepCost {
 public:
  void Observe(SteadyDuration duration, int64_t decode_rows, int64_t prefill_tokens);

  // Prompt tokens that fit beside `decode_rows` in a step of `limit`; at least kLeastTokens, so that prompts advance
  // however slow the device is.
  int64_t PrefillTokensWithin(SteadyDuration limit, int64_t decode_rows) const;

  static constexpr int64_t kLeastTokens = 16;

 private:
  double DecodeSeconds(int64_t decode_rows) const;

  // Zero until seen.
  double seconds_per_decode_row_ = 0;
  double seconds_per_prefill_token_ = 0;
};

}  // namespace farspan
