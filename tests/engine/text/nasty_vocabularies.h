// SPDX-License-Identifier: Apache-2.0
// Three tokenizers whose merges overlap, nest, cross code points and come in no natural order.
#pragma once

#include <algorithm>
#include <array>

#include "tests/engine/text/test_vocabulary.h"

namespace farspan {

inline std::array<Vocabulary, 3> NastyVocabularies() {
  Vocabulary gpt2 = MakeVocabulary({
      {" ", " "},    {"a", "a"},       {"\n", "\n"},     {"aa", "aa"},     {"  ", "  "},         {"a", "b"},
      {"b", "a"},    {"\xC3", "\xA9"}, {"\xE2", "\x80"}, {"\x80", "\xE2"}, {"\xE2\x80", "\x8D"}, {" ", "a"},
      {" a", "b"},   {"ab", "a"},      {"aa", "a"},      {"\n\n", "\n"},   {"\xCC", "\x81"},     {"\x81", "\xCC"},
      {"a", "\xCC"}, {"1", "1"},       {"1", "2"},       {"11", "11"},     {"'", "s"},           {"'", "t"},
      {"\t", "\t"},  {"\r", "\n"},     {"!", "!"},       {"!!", "!"},      {"\xF0", "\x9F"},     {"\x9F", "\x98"},
      {"ab", "ab"},  {" a", "a"},      {"aaaa", "aaaa"}, {"<", "|"},       {"|", ">"},           {"\xC2", "\xA0"},
  });
  Vocabulary smollm = gpt2;
  smollm.pre_tokenizer = "smollm";
  Vocabulary reversed = gpt2;
  std::reverse(reversed.merges.begin(), reversed.merges.end());
  for (const char* literal : {"   ", "abab!", "<a>", "<a>b", "\n\n\n", "e\xCC\x81"}) {
    reversed.tokens.push_back(literal);
    reversed.types.push_back(TokenType::kUserDefined);
  }
  return {std::move(gpt2), std::move(smollm), std::move(reversed)};
}

}  // namespace farspan
