// SPDX-License-Identifier: Apache-2.0
// Log-probabilities of one position: the chosen token's and the likeliest alternatives'.
#pragma once

#include <vector>

#include "engine/base/ids.h"

namespace farspan {

// Natural logs under the model's logits, before penalties and temperature.
struct TokenLogprob {
  TokenId token = 0;
  float logprob = 0;
};

struct TokenLogprobs {
  TokenLogprob chosen;
  std::vector<TokenLogprob> top;  // best first, ties to the lower id
};

inline constexpr int kMaxAlternatives = 20;

}  // namespace farspan
