// SPDX-License-Identifier: Apache-2.0
// Cuts a text into the words inside which byte pairs may merge. Written as scanners, not as regular expressions:
// one pass, no backtracking, constant stack on any input. Unicode classes are those of the ICU that is linked; a code
// point that this ICU does not know yet is neither letter, number nor white space.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

#include "absl/status/statusor.h"

namespace farspan {

enum class PreTokenizer {
  // 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
  kGpt2,
  // Each \p{N} is a word of its own; what lies between them is cut as by kGpt2.
  kSmollm,
};

// INVALID_ARGUMENT lists the known names.
absl::StatusOr<PreTokenizer> ParsePreTokenizer(std::string_view name);

// Owned by one caller. The words follow each other without a gap and together are the text.
class WordScanner {
 public:
  // `text` is valid UTF-8 and outlives the scanner.
  WordScanner(PreTokenizer pre_tokenizer, std::string_view text) : pre_tokenizer_(pre_tokenizer), text_(text) {}

  // The next word, or nothing at the end.
  std::optional<std::string_view> Next();

 private:
  enum class CharClass { kLetter, kNumber, kSpace, kOther, kEnd };
  struct Char {
    CharClass kind;
    size_t num_bytes;
  };

  static CharClass Classify(char32_t code_point);
  Char CharAt(size_t offset) const;
  // As CharAt, but a code point that the pre-tokenizer isolates ends what comes before it.
  Char CharInPieceAt(size_t offset) const;
  size_t ContractionBytesAt(size_t offset) const;
  size_t WhitespaceEndAt(size_t offset) const;
  std::string_view Take(size_t end);

  const PreTokenizer pre_tokenizer_;
  const std::string_view text_;
  size_t offset_ = 0;
};

}  // namespace farspan
