// SPDX-License-Identifier: Apache-2.0
// Byte-level byte-pair encoding, as GPT-2, SmolLM2 and their relatives use it. Ids equal those of the Hugging Face
// tokenizers package. What that package drops without a word (bytes that the vocabulary has no token for) is refused.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "engine/text/tokenizer.h"

namespace farspan {

// Checks everything that the vocabulary declares. INVALID_ARGUMENT names the field, what was expected and what was
// found: too many tokens, an empty or double one, one outside the byte-level alphabet, no token for a byte of printable
// ASCII or for the line feed, a merge that is no pair of tokens or whose product is none, an id out of range.
absl::StatusOr<std::unique_ptr<const Tokenizer>> CreateBpeTokenizer(Vocabulary vocabulary);

}  // namespace farspan
