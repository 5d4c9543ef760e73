// SPDX-License-Identifier: Apache-2.0
#include "engine/sampling/token_counts.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/base/check.h"

namespace farspan {

void TokenCounts::AddPrompt(std::span<const TokenId> tokens) {
  for (const TokenId token : tokens) counts_[token].in_prompt = true;
}

void TokenCounts::AddOutput(TokenId token) { ++counts_[token].in_output; }

void TokenCounts::ApplyPenalties(const SamplingParams& params, std::span<float> logits) const {
  if (!params.penalises()) return;
  constexpr double kLargest = std::numeric_limits<float>::max();
  for (const auto& [token, counts] : counts_) {
    FARSPAN_CHECK(token >= 0 && static_cast<size_t>(token) < logits.size(), "token=", token);
    float& logit = logits[static_cast<size_t>(token)];
    if (!std::isfinite(logit)) continue;
    double value = logit;
    value = value > 0 ? value / params.repetition_penalty : value * params.repetition_penalty;
    if (counts.in_output > 0) value -= counts.in_output * params.frequency_penalty + params.presence_penalty;
    logit = static_cast<float>(std::clamp(value, -kLargest, kLargest));
  }
}

}  // namespace farspan
