// SPDX-License-Identifier: Apache-2.0
#include "engine/model/hf_config.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>
#include <optional>
#include <set>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

namespace farspan {
namespace {

using Json = nlohmann::json;

// Of training, of text or of other programs: nothing here computes anything with them.
constexpr std::string_view kInertKeys[] = {
    "_name_or_path",    "architectures",     "attention_dropout",    "bos_token_id",           "dtype",
    "eos_token_id",     "initializer_range", "is_llama_config",      "pad_token_id",           "pretraining_tp",
    "rope_interleaved", "torch_dtype",       "transformers_version", "transformers.js_config", "use_cache"};

std::string Shown(const Json& value) {
  constexpr size_t kMaxShownBytes = 64;
  const std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  return absl::CHexEscape(text.substr(0, kMaxShownBytes));
}

absl::Status Refuse(const std::string& key, const std::string& expected, const std::string& got) {
  return absl::InvalidArgumentError(
      absl::StrCat("key ", absl::CHexEscape(key.substr(0, 64)), ": expected ", expected, ", is ", got));
}

// Reads an object's keys, each with its rule, and knows which it has read. A key whose value is null is absent.
class KeyReader {
 public:
  KeyReader(const Json& object, std::string prefix) : object_(object), prefix_(std::move(prefix)) {}

  const Json* Find(const std::string& key) {
    read_.insert(key);
    const auto place = object_.find(key);
    return place == object_.end() || place->is_null() ? nullptr : &*place;
  }

  absl::StatusOr<int64_t> Count(const std::string& key, int64_t maximum, std::optional<int64_t> absent = {}) {
    const Json* value = Find(key);
    if (value == nullptr && absent) return *absent;
    const std::string rule = absl::StrCat("a whole number from 1 to ", maximum);
    if (value == nullptr) return Missing(key, rule);
    if (!value->is_number_unsigned() || *value < 1u || *value > static_cast<uint64_t>(maximum)) {
      return Refuse(prefix_ + key, rule, Shown(*value));
    }
    return value->get<int64_t>();
  }

  absl::StatusOr<double> Real(const std::string& key, double minimum, double maximum,
                              std::optional<double> absent = {}) {
    const Json* value = Find(key);
    if (value == nullptr && absent) return *absent;
    const std::string rule = absl::StrCat("a number from ", minimum, " to ", maximum);
    if (value == nullptr) return Missing(key, rule);
    if (!value->is_number() || !(*value >= minimum && *value <= maximum)) {
      return Refuse(prefix_ + key, rule, Shown(*value));
    }
    return value->get<double>();
  }

  absl::StatusOr<bool> Truth(const std::string& key, bool absent) {
    const Json* value = Find(key);
    if (value == nullptr) return absent;
    if (!value->is_boolean()) return Refuse(prefix_ + key, "true or false", Shown(*value));
    return value->get<bool>();
  }

  // The key is this text, or absent where it may be.
  absl::Status Must(const std::string& key, const std::string& text, bool may_be_absent) {
    const Json* value = Find(key);
    if (value == nullptr) return may_be_absent ? absl::OkStatus() : Missing(key, text);
    return *value == text ? absl::OkStatus() : Refuse(prefix_ + key, text, Shown(*value));
  }

  absl::Status RefuseOthers() const {
    for (const auto& [key, value] : object_.items()) {
      if (read_.contains(key) || std::ranges::find(kInertKeys, key) != std::end(kInertKeys)) continue;
      return Refuse(prefix_ + key, "only keys of a Llama that are known here", Shown(value));
    }
    return absl::OkStatus();
  }

 private:
  absl::Status Missing(const std::string& key, const std::string& rule) const {
    return Refuse(prefix_ + key, rule, "missing");
  }

  const Json& object_;
  const std::string prefix_;
  std::set<std::string> read_;
};

// Of Llama 3.1: long waves are stretched by `factor`, short ones stay, those between change gradually.
std::vector<float> Llama3Factors(const LlamaConfig& config, double factor, double low, double high, double original) {
  std::vector<float> factors;
  for (const double frequency : RopeFrequencies(config, {})) {
    const double waves = original * frequency / (2 * std::numbers::pi);  // in the original context
    const double kept = std::clamp((waves - low) / (high - low), 0.0, 1.0);
    factors.push_back(static_cast<float>(1 / ((1 - kept) / factor + kept)));
  }
  return factors;
}

absl::Status ReadRopeScaling(const Json& object, HfLlama* llama) {
  if (!object.is_object()) return Refuse("rope_scaling", "an object or null", Shown(object));
  KeyReader reader(object, "rope_scaling.");
  LlamaConfig& config = llama->spec.config;
  const Json* new_name = reader.Find("rope_type");
  const Json* old_name = reader.Find("type");
  const Json type = new_name != nullptr ? *new_name : old_name != nullptr ? *old_name : Json("default");
  if (type == "linear") {
    FARSPAN_ASSIGN_OR_RETURN(config.rope_linear_factor, reader.Real("factor", 1, LlamaLimits::kMaxLinearFactor));
  } else if (type == "llama3") {
    FARSPAN_ASSIGN_OR_RETURN(const double factor, reader.Real("factor", 1, LlamaLimits::kMaxLinearFactor));
    FARSPAN_ASSIGN_OR_RETURN(const double low, reader.Real("low_freq_factor", 0, 1e6));
    FARSPAN_ASSIGN_OR_RETURN(const double high, reader.Real("high_freq_factor", 0, 1e6));
    FARSPAN_ASSIGN_OR_RETURN(const int64_t original,
                             reader.Count("original_max_position_embeddings", LlamaLimits::kMaxContextTokens));
    if (high <= low) {
      return Refuse("rope_scaling.high_freq_factor", absl::StrCat("more than the low one, ", low), absl::StrCat(high));
    }
    llama->rope_factors = Llama3Factors(config, factor, low, high, static_cast<double>(original));
  } else if (type != "default") {
    return Refuse("rope_scaling.rope_type", "default, linear or llama3", Shown(type));
  }
  return reader.RefuseOthers();
}

absl::Status ReadHeads(KeyReader& reader, LlamaConfig* config) {
  FARSPAN_ASSIGN_OR_RETURN(config->num_heads, reader.Count("num_attention_heads", LlamaLimits::kMaxHeads));
  FARSPAN_ASSIGN_OR_RETURN(config->num_kv_heads,
                           reader.Count("num_key_value_heads", LlamaLimits::kMaxHeads, config->num_heads));
  if (config->num_heads % config->num_kv_heads != 0 ||
      config->num_heads / config->num_kv_heads > LlamaLimits::kMaxGroup) {
    return Refuse("num_key_value_heads",
                  absl::StrCat("a divisor of the ", config->num_heads, " heads, at most ", LlamaLimits::kMaxGroup,
                               " heads on each"),
                  absl::StrCat(config->num_kv_heads));
  }
  if (reader.Find("head_dim") == nullptr && config->width % config->num_heads != 0) {
    return Refuse("num_attention_heads", absl::StrCat("a divisor of the hidden_size ", config->width),
                  absl::StrCat(config->num_heads));
  }
  FARSPAN_ASSIGN_OR_RETURN(config->head_dim,
                           reader.Count("head_dim", LlamaLimits::kMaxHeadDim, config->width / config->num_heads));
  if (config->head_dim > LlamaLimits::kMaxHeadDim || config->head_dim % LlamaLimits::kHeadDimStep != 0) {
    return Refuse("head_dim",
                  absl::StrCat("a multiple of ", LlamaLimits::kHeadDimStep, " up to ", LlamaLimits::kMaxHeadDim),
                  absl::StrCat(config->head_dim));
  }
  config->rope_dim = config->head_dim;
  return absl::OkStatus();
}

absl::Status RefuseVariants(KeyReader& reader) {
  FARSPAN_RETURN_IF_ERROR(reader.Must("model_type", "llama", false));
  FARSPAN_RETURN_IF_ERROR(reader.Must("hidden_act", "silu", true));
  for (const char* key : {"attention_bias", "mlp_bias"}) {
    FARSPAN_ASSIGN_OR_RETURN(const bool biased, reader.Truth(key, false));
    if (biased) return Refuse(key, "false, for a network without biases", "true");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<HfLlama> ParseHfConfig(std::string_view json) {
  const Json object = Json::parse(json, nullptr, false);
  if (!object.is_object()) return absl::InvalidArgumentError("expected one JSON object");
  KeyReader reader(object, "");
  HfLlama llama;
  LlamaConfig& config = llama.spec.config;
  FARSPAN_RETURN_IF_ERROR(RefuseVariants(reader));
  FARSPAN_ASSIGN_OR_RETURN(config.num_layers, reader.Count("num_hidden_layers", LlamaLimits::kMaxLayers));
  FARSPAN_ASSIGN_OR_RETURN(config.width, reader.Count("hidden_size", LlamaLimits::kMaxWidth));
  FARSPAN_ASSIGN_OR_RETURN(config.feed_forward_width,
                           reader.Count("intermediate_size", LlamaLimits::kMaxFeedForwardWidth));
  FARSPAN_ASSIGN_OR_RETURN(config.context_tokens,
                           reader.Count("max_position_embeddings", LlamaLimits::kMaxContextTokens));
  FARSPAN_ASSIGN_OR_RETURN(llama.spec.vocab_size, reader.Count("vocab_size", LlamaLimits::kMaxVocabSize));
  FARSPAN_RETURN_IF_ERROR(ReadHeads(reader, &config));
  FARSPAN_ASSIGN_OR_RETURN(const double epsilon, reader.Real("rms_norm_eps", 1e-12, 1));
  config.rms_epsilon = static_cast<float>(epsilon);
  FARSPAN_ASSIGN_OR_RETURN(config.rope_freq_base, reader.Real("rope_theta", 1, LlamaLimits::kMaxFreqBase, 10000));
  FARSPAN_ASSIGN_OR_RETURN(llama.tied_embeddings, reader.Truth("tie_word_embeddings", false));
  if (const Json* scaling = reader.Find("rope_scaling")) FARSPAN_RETURN_IF_ERROR(ReadRopeScaling(*scaling, &llama));
  FARSPAN_RETURN_IF_ERROR(reader.RefuseOthers());
  return llama;
}

}  // namespace farspan
