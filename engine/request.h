// SPDX-License-Identifier: Apache-2.0
// A request as the engine takes it: validated and immutable. Built at the edge; the engine checks, never re-validates.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/attention/policy.h"
#include "engine/base/clock.h"
#include "engine/base/ids.h"
#include "engine/sampling/sampling_params.h"

namespace farspan {

inline constexpr int kMaxSamples = 8;
inline constexpr int kMinPriority = -100;
inline constexpr int kMaxPriority = 100;

// When generation ends, in tokens. Stop strings live with whoever turns tokens into text.
struct StopConditions {
  int64_t max_tokens = 0;               // >= 1; prompt + max_tokens fits the model's context
  int64_t min_tokens = 0;               // stop ids drawn before are kept and generation goes on
  std::vector<TokenId> stop_token_ids;  // ascending; end-of-generation tokens included unless they are ignored
};

struct Request {
  std::string id;               // the server's own, for logs
  std::vector<TokenId> prompt;  // not empty; ids inside the vocabulary
  SamplingParams sampling;
  StopConditions stop;
  std::optional<int> logprobs;         // alternatives a generated token, 0 to kMaxAlternatives; nullopt reports none
  std::optional<int> prompt_logprobs;  // the same for prompt tokens
  std::shared_ptr<const AttentionPolicy> policy;
  // Tokens that are run as decode rows instead of drawn ones, logprobs reported; then generation ends with kLength.
  // Empty for ordinary requests; else exactly stop.max_tokens of them, and stop ids are ignored.
  std::vector<TokenId> forced_tokens;
  int num_samples = 1;           // continuations drawn from one computed prompt; 1 to kMaxSamples
  bool use_prefix_cache = true;  // false neither reads nor feeds it; prompt_logprobs imply not reading
  std::string tenant;            // shares the engine fairly with other tenants and its cached pages with none
  int priority = 0;              // smaller runs earlier, kMinPriority to kMaxPriority
  SteadyTime arrival{};
  SteadyTime deadline = kNoDeadline;
  SteadyTime queue_deadline = kNoDeadline;  // when a request that has not begun by then is given up
};

}  // namespace farspan
