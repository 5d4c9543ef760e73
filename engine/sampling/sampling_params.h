// SPDX-License-Identifier: Apache-2.0
// How one request draws its tokens. Validated at the edge; the engine relies on the ranges given here.
#pragma once

#include <cstdint>

namespace farspan {

// Immutable value. Penalties count tokens of the output only, except repetition_penalty, which counts the prompt too.
struct SamplingParams {
  double temperature = 1.0;         // [0, 100]; below kGreedyTemperature is greedy
  double top_p = 1.0;               // (0, 1]
  int32_t top_k = 0;                // >= 0, 0 keeps all
  double min_p = 0.0;               // [0, 1]
  double frequency_penalty = 0.0;   // [-2, 2]
  double presence_penalty = 0.0;    // [-2, 2]
  double repetition_penalty = 1.0;  // (0, 100]
  uint64_t seed = 0;

  static constexpr double kGreedyTemperature = 1e-2;
  bool greedy() const { return temperature < kGreedyTemperature; }
  bool penalises_prompt() const { return repetition_penalty != 1.0; }
  bool penalises() const { return penalises_prompt() || frequency_penalty != 0.0 || presence_penalty != 0.0; }
};

}  // namespace farspan
