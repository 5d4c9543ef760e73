// SPDX-License-Identifier: Apache-2.0
#include "engine/model/llama_config.h"

#include <cmath>
#include <optional>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "engine/base/absl_view.h"
#include "engine/base/status_macros.h"
#include "engine/model/gguf_cursor.h"

namespace farspan {
namespace {

absl::Status Refuse(std::string_view key, std::string_view expected, std::string_view got) {
  return absl::InvalidArgumentError(
      absl::StrCat("key ", AbslView(key), ": expected ", AbslView(expected), ", got ", AbslView(got)));
}

absl::StatusOr<int64_t> Count(const GgufMetadata& metadata, std::string_view key, int64_t min, int64_t max) {
  FARSPAN_ASSIGN_OR_RETURN(const uint64_t value,
                           metadata.GetUint(key, static_cast<uint64_t>(min), static_cast<uint64_t>(max)));
  return static_cast<int64_t>(value);
}

absl::StatusOr<int64_t> CountOr(const GgufMetadata& metadata, std::string_view key, int64_t min, int64_t max,
                                int64_t fallback) {
  if (!metadata.Has(key)) return fallback;
  return Count(metadata, key, min, max);
}

absl::Status ReadHeads(const GgufMetadata& metadata, LlamaConfig& config) {
  constexpr std::string_view kKvHeads = "llama.attention.head_count_kv";
  constexpr std::string_view kKeyLength = "llama.attention.key_length";
  FARSPAN_ASSIGN_OR_RETURN(config.num_heads, Count(metadata, "llama.attention.head_count", 1, LlamaLimits::kMaxHeads));
  FARSPAN_ASSIGN_OR_RETURN(config.num_kv_heads,
                           CountOr(metadata, kKvHeads, 1, LlamaLimits::kMaxHeads, config.num_heads));
  if (config.num_heads % config.num_kv_heads != 0 || config.num_heads / config.num_kv_heads > LlamaLimits::kMaxGroup) {
    return Refuse(kKvHeads,
                  absl::StrCat("a divisor of the ", config.num_heads, " heads, at most ", LlamaLimits::kMaxGroup,
                               " heads on each"),
                  absl::StrCat(config.num_kv_heads));
  }
  if (!metadata.Has(kKeyLength) && config.width % config.num_heads != 0) {
    return Refuse("llama.attention.head_count", absl::StrCat("a divisor of the width ", config.width),
                  absl::StrCat(config.num_heads));
  }
  FARSPAN_ASSIGN_OR_RETURN(config.head_dim,
                           CountOr(metadata, kKeyLength, 1, LlamaLimits::kMaxHeadDim, config.width / config.num_heads));
  if (config.head_dim < LlamaLimits::kHeadDimStep || config.head_dim > LlamaLimits::kMaxHeadDim ||
      config.head_dim % LlamaLimits::kHeadDimStep != 0) {
    return Refuse(kKeyLength,
                  absl::StrCat("a size of a head that is a multiple of ", LlamaLimits::kHeadDimStep, " up to ",
                               LlamaLimits::kMaxHeadDim),
                  absl::StrCat(config.head_dim));
  }
  constexpr std::string_view kValueLength = "llama.attention.value_length";
  FARSPAN_ASSIGN_OR_RETURN(const int64_t value_length,
                           CountOr(metadata, kValueLength, 1, LlamaLimits::kMaxHeadDim, config.head_dim));
  if (value_length != config.head_dim) {
    return Refuse(kValueLength, absl::StrCat("the key length ", config.head_dim), absl::StrCat(value_length));
  }
  return absl::OkStatus();
}

absl::Status ReadRopeScaling(const GgufMetadata& metadata, LlamaConfig& config) {
  constexpr std::string_view kType = "llama.rope.scaling.type";
  constexpr std::string_view kFactor = "llama.rope.scaling.factor";
  constexpr std::string_view kOldFactor = "llama.rope.scale_linear";
  FARSPAN_ASSIGN_OR_RETURN(const std::optional<std::string_view> type, metadata.FindString(kType));
  if (type && *type != "none" && *type != "linear") {
    return Refuse(kType, "none, linear or the tensor rope_freqs.weight", QuoteFileText(*type));
  }
  const bool linear = type && *type == "linear";
  const std::string_view factor_key = linear || metadata.Has(kFactor) ? kFactor : kOldFactor;
  // Written as 0 or 1 by converters where nothing is scaled.
  FARSPAN_ASSIGN_OR_RETURN(const std::optional<double> factor,
                           metadata.FindFloat(factor_key, 0, LlamaLimits::kMaxLinearFactor));
  const bool scaled = !type || linear;
  if (linear && !factor) return Refuse(kFactor, "the factor of linear scaling", "no such key");
  if (scaled && factor && *factor > 0) config.rope_linear_factor = *factor;
  return absl::OkStatus();
}

absl::Status ReadRope(const GgufMetadata& metadata, LlamaConfig& config) {
  constexpr std::string_view kDims = "llama.rope.dimension_count";
  constexpr std::string_view kBase = "llama.rope.freq_base";
  constexpr double kDefaultFreqBase = 10000;
  FARSPAN_ASSIGN_OR_RETURN(config.rope_dim, CountOr(metadata, kDims, 2, config.head_dim, config.head_dim));
  if (config.rope_dim % 2 != 0) return Refuse(kDims, "an even number", absl::StrCat(config.rope_dim));
  FARSPAN_ASSIGN_OR_RETURN(const std::optional<double> base, metadata.FindFloat(kBase, 1, LlamaLimits::kMaxFreqBase));
  config.rope_freq_base = base.value_or(kDefaultFreqBase);
  return ReadRopeScaling(metadata, config);
}

absl::Status RefuseVariants(const GgufMetadata& metadata, const LlamaConfig& config) {
  constexpr std::string_view kExperts = "llama.expert_count";
  constexpr std::string_view kWindow = "llama.attention.sliding_window";
  constexpr std::string_view kCausal = "llama.attention.causal";
  FARSPAN_ASSIGN_OR_RETURN(const int64_t experts, CountOr(metadata, kExperts, 0, 1 << 20, 0));
  if (experts > 0) return Refuse(kExperts, "0, for a network without experts", absl::StrCat(experts));
  FARSPAN_ASSIGN_OR_RETURN(const int64_t window, CountOr(metadata, kWindow, 0, int64_t{1} << 40, 0));
  if (window > 0 && window < config.context_tokens) {
    return Refuse(kWindow, absl::StrCat("attention over the whole context of ", config.context_tokens),
                  absl::StrCat(window));
  }
  FARSPAN_ASSIGN_OR_RETURN(const std::optional<bool> causal, metadata.FindBool(kCausal));
  if (causal && !*causal) return Refuse(kCausal, "true", "false");
  return absl::OkStatus();
}

}  // namespace

std::string LlamaConfig::Describe() const {
  return absl::StrCat("llama layers=", num_layers, " width=", width, " ffn=", feed_forward_width, " heads=", num_heads,
                      " kv_heads=", num_kv_heads, " head_dim=", head_dim, " rope_dim=", rope_dim,
                      " rope_freq_base=", rope_freq_base, " rope_linear_factor=", rope_linear_factor,
                      " rms_epsilon=", rms_epsilon);
}

absl::StatusOr<LlamaConfig> ReadLlamaConfig(const GgufMetadata& metadata) {
  LlamaConfig config;
  FARSPAN_ASSIGN_OR_RETURN(config.num_layers, Count(metadata, "llama.block_count", 1, LlamaLimits::kMaxLayers));
  FARSPAN_ASSIGN_OR_RETURN(config.width, Count(metadata, "llama.embedding_length", 1, LlamaLimits::kMaxWidth));
  FARSPAN_ASSIGN_OR_RETURN(config.feed_forward_width,
                           Count(metadata, "llama.feed_forward_length", 1, LlamaLimits::kMaxFeedForwardWidth));
  FARSPAN_ASSIGN_OR_RETURN(config.context_tokens,
                           Count(metadata, "llama.context_length", 1, LlamaLimits::kMaxContextTokens));
  FARSPAN_RETURN_IF_ERROR(ReadHeads(metadata, config));
  FARSPAN_RETURN_IF_ERROR(ReadRope(metadata, config));
  FARSPAN_ASSIGN_OR_RETURN(const double epsilon, metadata.GetFloat("llama.attention.layer_norm_rms_epsilon", 1e-12, 1));
  config.rms_epsilon = static_cast<float>(epsilon);
  FARSPAN_RETURN_IF_ERROR(RefuseVariants(metadata, config));
  return config;
}

std::vector<double> RopeFrequencies(const LlamaConfig& config, std::span<const float> factors) {
  std::vector<double> frequencies(static_cast<size_t>(config.rope_dim / 2));
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(config.rope_dim);
    frequencies[i] = std::pow(config.rope_freq_base, exponent) / config.rope_linear_factor;
    if (!factors.empty()) frequencies[i] /= static_cast<double>(factors[i]);
  }
  return frequencies;
}

}  // namespace farspan
