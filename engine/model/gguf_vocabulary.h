// SPDX-License-Identifier: Apache-2.0
// What a GGUF file says about its vocabulary, as the plain value that engine/text takes. The only place that knows
// both.
#pragma once

#include "absl/status/statusor.h"
#include "engine/model/gguf_metadata.h"
#include "engine/text/tokenizer.h"

namespace farspan {

// Reads the keys tokenizer.*. INVALID_ARGUMENT names the key, what was expected and what was found; whether tokens,
// merges and pre-tokenizer make sense is for CreateBpeTokenizer() to say.
absl::StatusOr<Vocabulary> ReadGgufVocabulary(const GgufMetadata& metadata);

}  // namespace farspan
