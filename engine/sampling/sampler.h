// SPDX-License-Identifier: Apache-2.0
// Logits to token ids. A draw depends on the row's logits, its parameters and (seed, position, sample index) alone:
// never on batch mates, slots or time.
#pragma once

#include <cstdint>
#include <span>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "engine/base/ids.h"
#include "engine/sampling/logprobs.h"
#include "engine/sampling/sampling_params.h"

namespace farspan {

// The tokens that penalties count. One writer: the sequence that owns it.
class TokenCounts {
 public:
  void AddPrompt(std::span<const TokenId> tokens);
  void AddOutput(TokenId token);

  // Subtracts and scales logits in place: repetition first, then frequency and presence.
  void ApplyPenalties(const SamplingParams& params, std::span<float> logits) const;

 private:
  struct Counts {
    bool in_prompt = false;
    int32_t in_output = 0;
  };
  absl::flat_hash_map<TokenId, Counts> counts_;
};

// Which draw of a request this is: `position` is the logical position of the token drawn.
struct DrawKey {
  uint64_t seed = 0;
  int64_t position = 0;
  int64_t sample_index = 0;
};

// A uniform number in [0, 1) that depends on the key alone (Philox4x32-10, Salmon et al., SC 2011).
double UniformDraw(const DrawKey& key);

// Draws from `logits` [vocab_size], which it overwrites. Order: penalties, temperature, top_k, top_p, min_p. Ties go to
// the lower id. INTERNAL when a logit is NaN or none is finite: that request fails, its batch mates go on.
absl::StatusOr<TokenId> SampleToken(const SamplingParams& params, const TokenCounts& counts, const DrawKey& key,
                                    std::span<float> logits);

// Log-softmax of `logits` [vocab_size] at `token` and at the `num_alternatives` likeliest, accumulated in float64.
// 0 <= num_alternatives <= kMaxAlternatives. INTERNAL as above.
absl::StatusOr<TokenLogprobs> ComputeLogprobs(std::span<const float> logits, TokenId token, int num_alternatives);

}  // namespace farspan
