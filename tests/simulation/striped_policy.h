// SPDX-License-Identifier: Apache-2.0
// A policy for simulations: dense over the prompt, then every decode row reads other stripes of what came before.
#pragma once

#include <memory>

#include "engine/attention/policy.h"

namespace farspan {

// Decode row t reads the blocks of `block_tokens` that a hash of (block, t) picks, about half of them, and the last
// block. So its prompt pages are dense's, and a generated token that is computed again as a prompt's would be reads the
// wrong keys.
std::shared_ptr<const AttentionPolicy> MakeStripedPolicy(int64_t block_tokens, int64_t page_tokens);

}  // namespace farspan
