// SPDX-License-Identifier: Apache-2.0
// The numbers of a Llama-family network, read from a GGUF file's `llama.*` keys and checked.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/gguf_metadata.h"

namespace farspan {

struct LlamaConfig {
  int64_t num_layers = 0;
  int64_t width = 0;  // of the residual stream
  int64_t feed_forward_width = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;  // divides num_heads, in groups of at most 32
  int64_t head_dim = 0;
  int64_t rope_dim = 0;  // even, at most head_dim
  double rope_freq_base = 0;
  double rope_linear_factor = 1;  // positions are divided by it
  int64_t context_tokens = 0;     // that the network was trained for
  float rms_epsilon = 0;

  int64_t query_width() const { return num_heads * head_dim; }
  int64_t kv_width() const { return num_kv_heads * head_dim; }
  // Equal texts, equal networks around equal weights.
  std::string Describe() const;
};

// INVALID_ARGUMENT names the key, what was expected and what was found; also for a variant that would compute another
// function than ours (experts, another rope scaling, a sliding window below the context).
absl::StatusOr<LlamaConfig> ReadLlamaConfig(const GgufMetadata& metadata);

// Angle a position, by pair of channels: [rope_dim / 2]. `factors` divides each frequency; empty for none.
std::vector<double> RopeFrequencies(const LlamaConfig& config, std::span<const float> factors);

}  // namespace farspan
