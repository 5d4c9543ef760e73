// SPDX-License-Identifier: Apache-2.0
// One draw as a value: what is asked of one row of logits, and what comes of it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "absl/status/statusor.h"
#include "engine/base/ids.h"
#include "engine/sampling/logprobs.h"
#include "engine/sampling/philox.h"
#include "engine/sampling/sampling_params.h"
#include "engine/sampling/token_counts.h"

namespace farspan {

struct DrawRequest {
  int64_t logit_row = 0;                // index into the batch's logit rows
  std::optional<TokenId> given_token;   // known beforehand and not drawn: forced, or a prompt's next token
  std::optional<int> num_alternatives;  // wants log-probabilities with so many of the likeliest, 0 to kMaxAlternatives
  // How the token is drawn where it is not given.
  SamplingParams sampling;
  const TokenCounts* counts = nullptr;  // outlives the request; null only where nothing is penalised
  DrawKey key;

  bool reads_logits() const { return !given_token || num_alternatives; }
};

struct DrawnToken {
  TokenId token = 0;
  std::optional<TokenLogprobs> logprobs;  // under the model's logits, where they were asked for
};

// INTERNAL where the row's logits are read and unsound: that request fails, its batch mates go on.
using DrawResult = absl::StatusOr<DrawnToken>;

// The answer of the host, from `logits` [vocab_size] of the request's row, which it overwrites; empty where the request
// reads none. The costs are those of SampleToken and ComputeLogprobs.
DrawResult DrawFromLogits(const DrawRequest& request, std::span<float> logits);

}  // namespace farspan
