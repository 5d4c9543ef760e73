// SPDX-License-Identifier: Apache-2.0
// From a GenerateRequest to what the engine and the delivery thread take; each mistake named by its field.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/request.h"
#include "farspan/v1/comparison.pb.h"
#include "farspan/v1/inference.pb.h"
#include "server/sample_text.h"
#include "server/served_model.h"

namespace farspan {

// What delivery needs to turn tokens into events.
struct Presentation {
  v1::GenerationStarted started;  // effective values; what only the engine knows is added when the request starts
  TextStops stops;
  int num_samples = 1;
  int64_t num_prompt_tokens = 0;
  bool reports_logprobs = false;
  bool reports_prompt_logprobs = false;
  TokenId first_prompt_token = 0;  // reported without a value, since nothing predicts it
  PolicyMode mode = PolicyMode::kDense;
};

struct ParsedGeneration {
  Request request;
  Presentation presentation;
};

// Facts of the call that the message does not hold.
struct CallFacts {
  std::string request_id;
  SteadyTime arrival{};
  SteadyTime deadline = kNoDeadline;
  SteadyDuration max_queue_duration{};  // the server's limit; 0 for none
  std::string tenant;
};

// Thread-safe. Slow: tokenises; runs in the text pool.
absl::StatusOr<ParsedGeneration> ParseGeneration(const v1::GenerateRequest& request, const CallFacts& facts,
                                                 const ServedModel& model);

// The generations of a comparison, the reference's first; all share tokens, seed and limits, and none the prefix cache.
// Temperature is 0 where the request has none.
absl::StatusOr<std::vector<ParsedGeneration>> ParseComparison(const v1::ComparePoliciesRequest& request,
                                                              const CallFacts& facts, const ServedModel& model);

}  // namespace farspan
