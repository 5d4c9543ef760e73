// SPDX-License-Identifier: Apache-2.0
// The prompts of a load run and how many tokens to ask for.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "farspan/v1/inference.pb.h"

namespace farspan::loadgen {

struct LoadPrompt {
  v1::Prompt prompt;
  int64_t output_tokens = 0;  // max_tokens of the request
};

// Immutable; thread-safe.
class Dataset {
 public:
  virtual ~Dataset() = default;
  // The same prompt for the same index, whatever was asked before.
  virtual LoadPrompt At(size_t index) const = 0;
  // Prompts before they repeat; none where they never do.
  virtual std::optional<size_t> num_distinct() const = 0;
};

struct RandomDatasetOptions {
  int64_t vocabulary_size = 0;
  int64_t input_tokens = 1024;
  int64_t output_tokens = 128;
  // Lengths are drawn evenly from [tokens * (1 - ratio), tokens * (1 + ratio)]; in [0, 1).
  double range_ratio = 0;
  // The same tokens at the start of every prompt, in addition to input_tokens.
  int64_t prefix_tokens = 0;
  uint64_t seed = 0;
};

// Prompts of random token ids, so that their lengths are exact.
std::unique_ptr<Dataset> NewRandomDataset(const RandomDatasetOptions& options);

// Prompts of a file: one JSON object a line, {"prompt": "...", "output_tokens": 64} with the latter optional, where
// `path` ends in .jsonl; else one prompt a line. Empty lines are skipped. They repeat from the start when asked for
// more than there are. NOT_FOUND where the file cannot be read; INVALID_ARGUMENT "PATH, line N: ...", the file limited
// to 1 GiB.
absl::StatusOr<std::unique_ptr<Dataset>> ReadCustomDataset(const std::string& path, int64_t output_tokens);

// The same from the file's content; `name` stands in error messages.
absl::StatusOr<std::unique_ptr<Dataset>> ParseCustomDataset(const std::string& content, const std::string& name,
                                                            bool json_lines, int64_t output_tokens);

}  // namespace farspan::loadgen
