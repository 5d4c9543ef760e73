// SPDX-License-Identifier: Apache-2.0
// Small vocabularies for tests: three control tokens, the 256 bytes, and the products of some merges.
#pragma once

#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "engine/base/check.h"
#include "engine/text/bpe.h"
#include "engine/text/byte_level.h"
#include "engine/text/tokenizer.h"

namespace farspan {

inline constexpr TokenId kEndOfText = 0;
inline constexpr TokenId kImStart = 1;
inline constexpr TokenId kImEnd = 2;

// The id of a byte in the vocabularies below.
inline TokenId ByteId(char byte) { return 3 + static_cast<uint8_t>(byte); }

using BytePair = std::pair<std::string_view, std::string_view>;

// `merges` are pairs of plain bytes; the product of the first has id 259.
inline Vocabulary MakeVocabulary(std::initializer_list<BytePair> merges = {}) {
  Vocabulary vocabulary;
  vocabulary.pre_tokenizer = "gpt-2";
  vocabulary.tokens = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
  vocabulary.types.assign(3, TokenType::kControl);
  for (int byte = 0; byte < 256; ++byte) {
    vocabulary.tokens.push_back(ToByteLevel(std::string(1, static_cast<char>(byte))));
  }
  for (const auto& [left, right] : merges) {
    vocabulary.tokens.push_back(ToByteLevel(left) + ToByteLevel(right));
    vocabulary.merges.push_back(ToByteLevel(left) + " " + ToByteLevel(right));
  }
  vocabulary.types.resize(vocabulary.tokens.size(), TokenType::kNormal);
  vocabulary.bos_id = kImStart;
  vocabulary.eos_id = kImEnd;
  return vocabulary;
}

inline std::unique_ptr<const Tokenizer> MakeTokenizer(Vocabulary vocabulary) {
  auto tokenizer = CreateBpeTokenizer(std::move(vocabulary));
  FARSPAN_CHECK(tokenizer.ok(), tokenizer.status().ToString());
  return *std::move(tokenizer);
}

}  // namespace farspan
