// SPDX-License-Identifier: Apache-2.0
#include "engine/sampling/sampler.h"

#include "engine/base/status_macros.h"
#include "engine/sampling/argmax.h"
#include "engine/sampling/candidates.h"

namespace farspan {

absl::StatusOr<TokenId> SampleToken(const SamplingParams& params, const TokenCounts& counts, const DrawKey& key,
                                    std::span<float> logits) {
  counts.ApplyPenalties(params, logits);
  FARSPAN_ASSIGN_OR_RETURN(const TokenId likeliest, Argmax(logits));
  if (params.greedy()) return likeliest;

  Candidates candidates = MakeCandidates(logits);
  // Temperature keeps the order of logits, so top_k may come first and spare the weights of all others.
  KeepTopK(params.top_k, candidates);
  SetWeights(logits[static_cast<size_t>(likeliest)], params.temperature, candidates);
  KeepTopP(params.top_p, candidates);
  KeepMinP(params.min_p, candidates);
  return Draw(UniformDraw(key), candidates);
}

}  // namespace farspan
