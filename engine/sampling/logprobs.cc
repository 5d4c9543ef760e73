// SPDX-License-Identifier: Apache-2.0
#include "engine/sampling/logprobs.h"

#include <algorithm>
#include <cmath>

#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/sampling/argmax.h"

namespace farspan {
namespace {

// log of the sum of exp(logit - max_logit).
double LogOfSum(std::span<const float> logits, double max_logit) {
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - max_logit);
  return std::log(sum);
}

// Tokens of the `count` largest logits, largest first, ties to the lower id.
std::vector<TokenId> LargestLogits(std::span<const float> logits, size_t count) {
  std::vector<TokenId> largest;
  if (count == 0) return largest;
  largest.reserve(count + 1);
  const auto logit_of = [logits](TokenId token) { return logits[static_cast<size_t>(token)]; };
  for (size_t i = 0; i < logits.size(); ++i) {
    if (largest.size() == count && !(logits[i] > logit_of(largest.back()))) continue;
    const auto place = std::upper_bound(largest.begin(), largest.end(), logits[i],
                                        [&](float logit, TokenId other) { return logit > logit_of(other); });
    largest.insert(place, static_cast<TokenId>(i));
    if (largest.size() > count) largest.pop_back();
  }
  return largest;
}

}  // namespace

absl::StatusOr<TokenLogprobs> ComputeLogprobs(std::span<const float> logits, TokenId token, int num_alternatives) {
  FARSPAN_CHECK(token >= 0 && static_cast<size_t>(token) < logits.size(), "token=", token);
  FARSPAN_CHECK(num_alternatives >= 0 && num_alternatives <= kMaxAlternatives, "num_alternatives=", num_alternatives);
  FARSPAN_ASSIGN_OR_RETURN(const TokenId likeliest, Argmax(logits));
  const double max_logit = logits[static_cast<size_t>(likeliest)];
  const double log_sum = LogOfSum(logits, max_logit);
  // Not logit - (max_logit + log_sum): the sum would round the small term away beside a large logit.
  const auto logprob_of = [&](TokenId of) -> TokenLogprob {
    return {.token = of, .logprob = static_cast<float>(logits[static_cast<size_t>(of)] - max_logit - log_sum)};
  };
  TokenLogprobs result{.chosen = logprob_of(token), .top = {}};
  for (const TokenId alternative : LargestLogits(logits, static_cast<size_t>(num_alternatives))) {
    result.top.push_back(logprob_of(alternative));
  }
  return result;
}

}  // namespace farspan
