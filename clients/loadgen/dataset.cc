// SPDX-License-Identifier: Apache-2.0
#include "clients/loadgen/dataset.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace farspan::loadgen {
namespace {

constexpr size_t kMaxFileBytes = size_t{1} << 30;

// A stream of numbers of its own for each (seed, index).
std::mt19937_64 BitsFor(uint64_t seed, uint64_t index) {
  std::seed_seq mixed{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32), static_cast<uint32_t>(index),
                      static_cast<uint32_t>(index >> 32)};
  return std::mt19937_64(mixed);
}

int64_t DrawLength(int64_t tokens, double ratio, std::mt19937_64* bits) {
  const auto mean = static_cast<double>(tokens);
  const auto low = std::max<int64_t>(1, static_cast<int64_t>(std::floor(mean * (1 - ratio))));
  const auto high = std::max(low, static_cast<int64_t>(std::ceil(mean * (1 + ratio))));
  return std::uniform_int_distribution<int64_t>(low, high)(*bits);
}

void AppendTokens(int64_t tokens, int64_t vocabulary_size, std::mt19937_64* bits, v1::TokenList* list) {
  std::uniform_int_distribution<int32_t> token(0, static_cast<int32_t>(vocabulary_size - 1));
  for (int64_t i = 0; i < tokens; ++i) list->add_ids(token(*bits));
}

class RandomDataset final : public Dataset {
 public:
  explicit RandomDataset(const RandomDatasetOptions& options) : options_(options) {}

  LoadPrompt At(size_t index) const override {
    LoadPrompt result;
    v1::TokenList* const tokens = result.prompt.mutable_tokens();
    std::mt19937_64 prefix_bits = BitsFor(options_.seed, std::numeric_limits<uint64_t>::max());
    std::mt19937_64 bits = BitsFor(options_.seed, index);
    const int64_t input_tokens = DrawLength(options_.input_tokens, options_.range_ratio, &bits);
    result.output_tokens = DrawLength(options_.output_tokens, options_.range_ratio, &bits);
    tokens->mutable_ids()->Reserve(static_cast<int>(options_.prefix_tokens + input_tokens));
    AppendTokens(options_.prefix_tokens, options_.vocabulary_size, &prefix_bits, tokens);
    AppendTokens(input_tokens, options_.vocabulary_size, &bits, tokens);
    return result;
  }

  std::optional<size_t> num_distinct() const override { return std::nullopt; }

 private:
  const RandomDatasetOptions options_;
};

struct CustomPrompt {
  std::string text;
  int64_t output_tokens = 0;
};

class CustomDataset final : public Dataset {
 public:
  explicit CustomDataset(std::vector<CustomPrompt> prompts) : prompts_(std::move(prompts)) {}

  LoadPrompt At(size_t index) const override {
    const CustomPrompt& source = prompts_[index % prompts_.size()];
    LoadPrompt result{.output_tokens = source.output_tokens};
    result.prompt.set_text(source.text);
    return result;
  }

  std::optional<size_t> num_distinct() const override { return prompts_.size(); }

 private:
  const std::vector<CustomPrompt> prompts_;
};

absl::StatusOr<CustomPrompt> ParseJsonLine(const std::string& line, int64_t output_tokens) {
  const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return absl::InvalidArgumentError("is not valid JSON");
  if (!json.is_object() || !json.contains("prompt") || !json["prompt"].is_string()) {
    return absl::InvalidArgumentError(R"(must be an object with a text under "prompt")");
  }
  CustomPrompt prompt{.text = json["prompt"].get<std::string>(), .output_tokens = output_tokens};
  if (prompt.text.empty()) return absl::InvalidArgumentError(R"("prompt" must not be empty)");
  if (!json.contains("output_tokens")) return prompt;
  const auto& tokens = json["output_tokens"];
  const bool fits = tokens.is_number_integer() && tokens.get<int64_t>() >= 1 &&
                    tokens.get<int64_t>() <= std::numeric_limits<int32_t>::max();
  if (!fits) return absl::InvalidArgumentError(R"("output_tokens" must be a whole number from 1 to 2147483647)");
  prompt.output_tokens = tokens.get<int64_t>();
  return prompt;
}

}  // namespace

std::unique_ptr<Dataset> NewRandomDataset(const RandomDatasetOptions& options) {
  return std::make_unique<RandomDataset>(options);
}

absl::StatusOr<std::unique_ptr<Dataset>> ParseCustomDataset(const std::string& content, const std::string& name,
                                                            bool json_lines, int64_t output_tokens) {
  std::vector<CustomPrompt> prompts;
  size_t start = 0;
  for (size_t number = 1; start < content.size(); ++number) {
    const size_t end = std::min(content.find('\n', start), content.size());
    std::string line = content.substr(start, end - start);
    start = end + 1;
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.find_first_not_of(" \t") == std::string::npos) continue;
    if (!json_lines) {
      prompts.push_back({.text = std::move(line), .output_tokens = output_tokens});
      continue;
    }
    absl::StatusOr<CustomPrompt> prompt = ParseJsonLine(line, output_tokens);
    if (!prompt.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(name, ", line ", number, ": ", prompt.status().message()));
    }
    prompts.push_back(*std::move(prompt));
  }
  if (prompts.empty()) return absl::InvalidArgumentError(absl::StrCat(name, ": holds no prompt"));
  return std::make_unique<CustomDataset>(std::move(prompts));
}

absl::StatusOr<std::unique_ptr<Dataset>> ReadCustomDataset(const std::string& path, int64_t output_tokens) {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (file) file.peek();  // a directory opens but does not read
  if (file.bad() || !file.is_open()) {
    return absl::NotFoundError(absl::StrCat("cannot read '", path, "': ", std::strerror(errno)));
  }
  file.clear();
  std::string content;
  std::vector<char> block(size_t{1} << 16);
  while (file.read(block.data(), static_cast<std::streamsize>(block.size())), file.gcount() > 0) {
    content.append(block.data(), static_cast<size_t>(file.gcount()));
    if (content.size() > kMaxFileBytes) {
      return absl::InvalidArgumentError(absl::StrCat("'", path, "': is larger than 1 GiB"));
    }
  }
  return ParseCustomDataset(content, absl::StrCat("'", path, "'"), absl::EndsWith(path, ".jsonl"), output_tokens);
}

}  // namespace farspan::loadgen
