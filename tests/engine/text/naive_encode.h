// SPDX-License-Identifier: Apache-2.0
// The definition of the encoding, written for obviousness and for short texts: the alternatives of the pre-tokenizer's
// pattern tried in order at each position, then the best merge searched in the whole word until there is none.
#pragma once

#include <string_view>
#include <vector>

#include "engine/text/tokenizer.h"

namespace farspan {

// `vocabulary` has passed CreateBpeTokenizer() and holds all 256 bytes; `text` is valid UTF-8.
std::vector<TokenId> NaiveEncode(const Vocabulary& vocabulary, std::string_view text);

}  // namespace farspan
