// SPDX-License-Identifier: Apache-2.0
// The settings of the hash model, spelled in its name: "hash:step_us=500,context=8192".
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace farspan {

struct HashModelOptions {
  int64_t num_layers = 2;
  int64_t context_tokens = 8192;
  // What one step takes at least; the three add up.
  int64_t step_us = 0;
  int64_t prefill_us_per_token = 0;
  int64_t decode_us_per_row = 0;
  int64_t load_ms = 0;       // what making the model takes
  int64_t fail_at_step = 0;  // from this step on the device fails, the first being 1; 0 for never
};

// True for "hash:" and whatever follows it; any other name is a file's.
bool IsHashModelName(std::string_view name);

// Settings not named keep their defaults. INVALID_ARGUMENT is a rule that begins with "must", without the value got.
absl::StatusOr<HashModelOptions> ParseHashModelName(std::string_view name);

// One indented line a setting: name, default, meaning, range.
std::string HashModelOptionsText();

}  // namespace farspan
