// SPDX-License-Identifier: Apache-2.0
// Reads the golden files of tests/data/tokenizer, which make_golden.py describes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"

namespace farspan {

// The lines of tests/data/tokenizer/NAME. Ends the test program if there is no such file.
std::vector<std::string> ReadGoldenLines(const std::string& name);

// The texts of texts.txt, followed by the random cases.
struct GoldenTexts {
  std::vector<std::string> cases;
  std::vector<std::string> random_cases;
};
const GoldenTexts& ReadGoldenTexts();

struct GoldenChat {
  std::vector<ChatMessage> messages;
  bool add_generation_prompt;
};
std::vector<GoldenChat> ReadGoldenChats();

Vocabulary ReadSyntheticVocabulary();

// One line of an .ids or .chat file.
std::string FormatGoldenIds(const absl::StatusOr<std::vector<TokenId>>& ids);
// The lower half of the 64-bit FNV-1a of the ids.
uint32_t HashIds(const std::vector<TokenId>& ids);

// Fails the current test for each text whose ids are not those of NAME.ids, and for each that does not decode to
// itself; returns how many texts were compared.
int64_t CompareWithGoldenIds(const Tokenizer& tokenizer, const std::string& name);
void CompareWithGoldenChats(const ChatTemplate& chat_template, const std::string& name);

}  // namespace farspan
