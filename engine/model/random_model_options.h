// SPDX-License-Identifier: Apache-2.0
// A network of a real shape with random weights, spelled in its name: "random:llama-3.1-8b,weights=q4_0". For
// measurements without a download.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/kernels/args.h"
#include "engine/model/hf_config.h"

namespace farspan {

struct RandomModelOptions {
  HfLlama shape;
  kernels::RandomFormat weights = kernels::RandomFormat::kBf16;  // of the matrices
  uint64_t seed = 0;
};

// True for "random:" and whatever follows it; any other name is a file's.
bool IsRandomModelName(std::string_view name);

// "random:SHAPE[,NAME=VALUE]...", SHAPE being one that is known by name or the path of a config.json, which is read.
// INVALID_ARGUMENT is a rule that begins with "must", without the value got.
absl::StatusOr<RandomModelOptions> ParseRandomModelName(std::string_view name);

// Indented lines: the shapes, then a setting a line.
std::string RandomModelOptionsText();

}  // namespace farspan
