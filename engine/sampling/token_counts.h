// SPDX-License-Identifier: Apache-2.0
// The tokens of one sequence that penalties count.
#pragma once

#include <cstdint>
#include <span>

#include "absl/container/flat_hash_map.h"
#include "engine/base/ids.h"
#include "engine/sampling/sampling_params.h"

namespace farspan {

// One writer: the sequence that owns it. A request without penalties need not fill it.
class TokenCounts {
 public:
  void AddPrompt(std::span<const TokenId> tokens);
  void AddOutput(TokenId token);

  // Scales and subtracts in place: repetition first, then frequency and presence. A finite logit stays finite, an
  // infinite one and NaN stay as they are. Every token counted lies inside `logits` [vocab_size].
  void ApplyPenalties(const SamplingParams& params, std::span<float> logits) const;

  // Calls visit(token, times in the output) once for each token counted, in no order; 0 times for the prompt's alone.
  template <typename Visit>
  void ForEach(const Visit& visit) const {
    for (const auto& [token, counts] : counts_) visit(token, counts.in_output);
  }

 private:
  struct Counts {
    bool in_prompt = false;
    int32_t in_output = 0;
  };
  absl::flat_hash_map<TokenId, Counts> counts_;
};

}  // namespace farspan
