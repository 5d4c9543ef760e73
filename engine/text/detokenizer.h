// SPDX-License-Identifier: Apache-2.0
// Turns the tokens of one request into text as they come, and never hands out half a code point.
#pragma once

#include <string>

#include "engine/base/ids.h"
#include "engine/text/tokenizer.h"

namespace farspan {

// Owned by one request; not thread-safe. What Push() and Flush() return, put together, is
// tokenizer.Decode(ids, skip_special_tokens); each piece is valid UTF-8.
class Detokenizer {
 public:
  // `tokenizer` outlives the detokenizer.
  explicit Detokenizer(const Tokenizer& tokenizer, bool skip_special_tokens = true)
      : tokenizer_(tokenizer), skip_special_tokens_(skip_special_tokens) {}

  // The text that `id` completes; often empty. An id outside the vocabulary adds nothing.
  std::string Push(TokenId id);

  // Ends the text: U+FFFD for an incomplete code point, else empty.
  std::string Flush();

 private:
  const Tokenizer& tokenizer_;
  const bool skip_special_tokens_;
  std::string incomplete_;  // the beginning of one code point: at most three bytes
};

}  // namespace farspan
