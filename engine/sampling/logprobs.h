// SPDX-License-Identifier: Apache-2.0
// Log-probabilities of one position: the chosen token's and the likeliest alternatives'.
#pragma once

#include <span>
#include <vector>

#include "absl/status/statusor.h"
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

// Log-softmax of `logits` [vocab_size] at `token` and at the `num_alternatives` likeliest, accumulated in float64; -inf
// for a token that cannot be drawn. 0 <= num_alternatives <= kMaxAlternatives; fewer come back from a smaller
// vocabulary. INTERNAL when a logit is NaN or +inf, or none is finite.
absl::StatusOr<TokenLogprobs> ComputeLogprobs(std::span<const float> logits, TokenId token, int num_alternatives);

}  // namespace farspan
