// SPDX-License-Identifier: Apache-2.0
// The names of a prompt's full pages in the prefix cache.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "engine/base/model_shape.h"
#include "engine/kv/prefix_key.h"
#include "engine/request.h"

namespace farspan {

// What an accepted request brings along.
struct PromptKeys {
  PrefixScope prompt_scope;     // of pages that hold prompt tokens alone; null bypasses the cache
  PrefixScope decode_scope;     // of pages that hold any decoded token
  std::vector<PrefixKey> keys;  // of the prompt's full pages
};

// Thread-safe. Costs a SHA-256 over the prompt: done by the submitting thread.
PromptKeys MakePromptKeys(const Request& request, std::string_view model_id, const ModelShape& shape);

}  // namespace farspan
