// SPDX-License-Identifier: Apache-2.0
// Logits to token ids. A draw depends on the row's logits, its parameters and (seed, position, sample index) alone:
// never on batch mates, slots or time.
#pragma once

#include <span>

#include "absl/status/statusor.h"
#include "engine/base/ids.h"
#include "engine/sampling/logprobs.h"
#include "engine/sampling/philox.h"
#include "engine/sampling/sampling_params.h"
#include "engine/sampling/token_counts.h"

namespace farspan {

// Draws from `logits` [vocab_size], which it overwrites. Order: penalties, temperature, top_k, top_p, min_p. Ties go to
// the lower id; a filter that keeps every token changes no draw. INTERNAL when a logit is NaN or +inf, or none is
// finite: that request fails, its batch mates go on. EPYC, 49,152 logits: greedy 25 us, else 0.3 to 1 ms.
absl::StatusOr<TokenId> SampleToken(const SamplingParams& params, const TokenCounts& counts, const DrawKey& key,
                                    std::span<float> logits);

}  // namespace farspan
