// SPDX-License-Identifier: Apache-2.0
// A vocabulary that needs no file: three control tokens of ChatML, then one token a byte.
#pragma once

#include <cstdint>

#include "engine/text/tokenizer.h"

namespace farspan {

// 259 tokens; byte b is token 3 + b. Its chat template is plain ChatML. Where a network has more tokens, the others are
// spelled as their number behind a space, and no text becomes them.
Vocabulary ByteVocabulary(int64_t num_tokens = 259);

}  // namespace farspan
