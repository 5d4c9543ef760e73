// SPDX-License-Identifier: Apache-2.0
// A vocabulary that needs no file: three control tokens of ChatML, then one token a byte.
#pragma once

#include "engine/text/tokenizer.h"

namespace farspan {

// 259 tokens; byte b is token 3 + b. Its chat template is plain ChatML.
Vocabulary ByteVocabulary();

}  // namespace farspan
