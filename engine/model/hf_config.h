// SPDX-License-Identifier: Apache-2.0
// A network of the Llama family as a Hugging Face config.json describes it.
#pragma once

#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/llama_config.h"

namespace farspan {

struct HfLlama {
  LlamaSpec spec;
  bool tied_embeddings = false;
  std::vector<float> rope_factors;  // [rope_dim / 2] divisors of the frequencies; empty for none
};

// INVALID_ARGUMENT "key <key>: expected ..., got ...": a value that is wrong or missing, a variant that would be
// another network than ours, or a key of which it is not known that it changes nothing.
absl::StatusOr<HfLlama> ParseHfConfig(std::string_view json);

}  // namespace farspan
