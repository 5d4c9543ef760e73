// SPDX-License-Identifier: Apache-2.0
#include "engine/model/random_model_options.h"

#include <fstream>
#include <sstream>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/base/absl_view.h"
#include "engine/base/status_macros.h"

namespace farspan {
namespace {

constexpr std::string_view kPrefix = "random:";
constexpr char kSettingRule[] = "must have settings such as weights=q4_0, seed=1 or context=8192 behind its shape";

constexpr int64_t kLeastVocabSize = 259;  // of the byte vocabulary

struct KnownShape {
  std::string_view name;
  std::string_view config;
};

constexpr KnownShape kShapes[] = {
    {"llama-3.1-8b", R"({"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
      "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
      "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 500000, "tie_word_embeddings": false,
      "rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4,
                       "original_max_position_embeddings": 8192}})"},
    {"smollm2-135m", R"({"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536,
      "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152,
      "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 100000, "tie_word_embeddings": true})"},
};

absl::StatusOr<std::string> ReadConfig(const std::string& path) {
  constexpr size_t kMaxBytes = 1 << 20;
  std::ifstream file(path, std::ios::binary);
  std::string text(kMaxBytes + 1, '\0');
  if (!file.read(text.data(), static_cast<std::streamsize>(text.size())) && !file.eof()) {
    return absl::InvalidArgumentError("must name a config.json that can be read");
  }
  text.resize(static_cast<size_t>(file.gcount()));
  if (text.empty() || text.size() > kMaxBytes) {
    return absl::InvalidArgumentError(absl::StrCat("must name a config.json of 1 to ", kMaxBytes, " bytes"));
  }
  return text;
}

absl::StatusOr<HfLlama> ShapeOf(const std::string& shape) {
  for (const KnownShape& known : kShapes) {
    if (shape == known.name) return ParseHfConfig(known.config);
  }
  if (!absl::EndsWith(shape, ".json")) {
    std::string names;
    for (const KnownShape& known : kShapes) absl::StrAppend(&names, AbslView(known.name), ", ");
    return absl::InvalidArgumentError(absl::StrCat("must be random: with ", names, "or the path of a config.json"));
  }
  FARSPAN_ASSIGN_OR_RETURN(const std::string text, ReadConfig(shape));
  absl::StatusOr<HfLlama> llama = ParseHfConfig(text);
  if (llama.ok()) return llama;
  return absl::InvalidArgumentError(
      absl::StrCat("must name a config.json of a network that can be run: ", llama.status().message()));
}

absl::Status SetWeights(std::string_view value, RandomModelOptions* options) {
  constexpr std::pair<std::string_view, kernels::RandomFormat> kFormats[] = {{"bf16", kernels::RandomFormat::kBf16},
                                                                             {"f32", kernels::RandomFormat::kF32},
                                                                             {"q4_0", kernels::RandomFormat::kQ4_0},
                                                                             {"q8_0", kernels::RandomFormat::kQ8_0}};
  for (const auto& [name, format] : kFormats) {
    if (value != name) continue;
    options->weights = format;
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError("must have bf16, f32, q4_0 or q8_0 as weights");
}

absl::Status Set(std::string_view assignment, RandomModelOptions* options) {
  const size_t equals = assignment.find('=');
  if (equals == std::string_view::npos) return absl::InvalidArgumentError(kSettingRule);
  const std::string_view name = assignment.substr(0, equals), value = assignment.substr(equals + 1);
  if (name == "weights") return SetWeights(value, options);
  if (name == "seed") {
    if (absl::SimpleAtoi(AbslView(value), &options->seed)) return absl::OkStatus();
    return absl::InvalidArgumentError("must have a whole number from 0 to 2^64 - 1 as seed");
  }
  if (name != "context") return absl::InvalidArgumentError(kSettingRule);
  int64_t tokens = 0;
  if (!absl::SimpleAtoi(AbslView(value), &tokens) || tokens < 1 || tokens > LlamaLimits::kMaxContextTokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("must have a whole number from 1 to ", LlamaLimits::kMaxContextTokens, " as context"));
  }
  options->shape.spec.config.context_tokens = tokens;
  return absl::OkStatus();
}

}  // namespace

bool IsRandomModelName(std::string_view name) { return absl::StartsWith(AbslView(name), AbslView(kPrefix)); }

absl::StatusOr<RandomModelOptions> ParseRandomModelName(std::string_view name) {
  if (!IsRandomModelName(name)) return absl::InvalidArgumentError("must begin with random:");
  const std::vector<std::string> parts = absl::StrSplit(AbslView(name.substr(kPrefix.size())), ',');
  RandomModelOptions options;
  FARSPAN_ASSIGN_OR_RETURN(options.shape, ShapeOf(parts[0]));
  if (options.shape.spec.vocab_size < kLeastVocabSize) {
    return absl::InvalidArgumentError(
        absl::StrCat("must have a vocab_size of at least ", kLeastVocabSize, ", a token for each byte"));
  }
  for (size_t i = 1; i < parts.size(); ++i) FARSPAN_RETURN_IF_ERROR(Set(parts[i], &options));
  options.shape.spec.name = absl::CHexEscape(parts[0]).substr(0, 128);
  return options;
}

std::string RandomModelOptionsText() {
  std::string text = "  shapes: ";
  for (const KnownShape& known : kShapes) absl::StrAppend(&text, AbslView(known.name), ", ");
  absl::StrAppend(&text, "or the path of a config.json of the Llama family\n",
                  "  weights=bf16  how matrices are stored: bf16, f32, q4_0 or q8_0\n",
                  "  seed=0  of the weights, which are equal on every device\n",
                  "  context=TOKENS  instead of the shape's own\n");
  return text;
}

}  // namespace farspan
