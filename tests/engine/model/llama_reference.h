// SPDX-License-Identifier: Apache-2.0
// The Llama forward pass written once more, in float64 and in the plainest way: what the engine is compared with.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/base/ids.h"
#include "engine/model/gguf.h"

namespace farspan {

// Logits of every token of `tokens` under dense causal attention: [tokens][vocab]. `file` is a valid Llama file.
std::vector<std::vector<double>> ReferenceLogits(const GgufFile& file, std::span<const TokenId> tokens);

}  // namespace farspan
