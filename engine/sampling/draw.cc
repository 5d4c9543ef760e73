// SPDX-License-Identifier: Apache-2.0
#include "engine/sampling/draw.h"

#include <vector>

#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/sampling/sampler.h"

namespace farspan {
namespace {

absl::StatusOr<TokenId> TokenFor(const DrawRequest& request, std::span<float> logits) {
  if (request.given_token) return *request.given_token;
  FARSPAN_CHECK(request.counts != nullptr || !request.sampling.penalises());
  static const TokenCounts kNoCounts;
  return SampleToken(request.sampling, request.counts != nullptr ? *request.counts : kNoCounts, request.key, logits);
}

}  // namespace

DrawResult DrawFromLogits(const DrawRequest& request, std::span<float> logits) {
  DrawnToken drawn;
  if (!request.num_alternatives || request.given_token) {
    FARSPAN_ASSIGN_OR_RETURN(drawn.token, TokenFor(request, logits));
    if (!request.num_alternatives) return drawn;
    FARSPAN_ASSIGN_OR_RETURN(drawn.logprobs, ComputeLogprobs(logits, drawn.token, *request.num_alternatives));
    return drawn;
  }
  // Log-probabilities come from the model's logits, which drawing overwrites.
  const std::vector<float> model_logits(logits.begin(), logits.end());
  FARSPAN_ASSIGN_OR_RETURN(drawn.token, TokenFor(request, logits));
  FARSPAN_ASSIGN_OR_RETURN(drawn.logprobs, ComputeLogprobs(model_logits, drawn.token, *request.num_alternatives));
  return drawn;
}

}  // namespace farspan
