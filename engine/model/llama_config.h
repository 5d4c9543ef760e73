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

// A network before its weights.
struct LlamaSpec {
  LlamaConfig config;
  int64_t vocab_size = 0;
  std::string name;  // as any log or response may carry it; may be empty
};

// Far above any network of the family; they bound every product of two of them below 2^63.
struct LlamaLimits {
  static constexpr int64_t kMaxLayers = 1024;
  static constexpr int64_t kMaxWidth = 1 << 17;
  static constexpr int64_t kMaxFeedForwardWidth = 1 << 20;
  static constexpr int64_t kMaxHeads = 1024;
  static constexpr int64_t kMaxHeadDim = 512;
  static constexpr int64_t kHeadDimStep = 8;  // attention kernels walk whole vectors of channels
  static constexpr int64_t kMaxContextTokens = 1 << 24;
  static constexpr int64_t kMaxGroup = 32;  // query heads on one KV head, by the kernels' head mask
  static constexpr int64_t kMaxVocabSize = 1 << 22;
  static constexpr double kMaxFreqBase = 1e12;
  static constexpr double kMaxLinearFactor = 4096;
};

// INVALID_ARGUMENT names the key, what was expected and what was found; also for a variant that would compute another
// function than ours (experts, another rope scaling, a sliding window below the context).
absl::StatusOr<LlamaConfig> ReadLlamaConfig(const GgufMetadata& metadata);

// Angle a position, by pair of channels: [rope_dim / 2]. `factors` divides each frequency; empty for none.
std::vector<double> RopeFrequencies(const LlamaConfig& config, std::span<const float> factors);

}  // namespace farspan
