// SPDX-License-Identifier: Apache-2.0
#include "engine/text/byte_vocabulary.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "engine/text/byte_level.h"
#include "engine/text/chat_template.h"

namespace farspan {

Vocabulary ByteVocabulary(int64_t num_tokens) {
  Vocabulary vocabulary;
  vocabulary.pre_tokenizer = "gpt-2";
  vocabulary.tokens = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
  vocabulary.types.assign(vocabulary.tokens.size(), TokenType::kControl);
  for (int byte = 0; byte < 256; ++byte) {
    vocabulary.tokens.push_back(ToByteLevel(std::string(1, static_cast<char>(byte))));
    vocabulary.types.push_back(TokenType::kNormal);
  }
  for (auto id = static_cast<int64_t>(vocabulary.tokens.size()); id < num_tokens; ++id) {
    vocabulary.tokens.push_back(ToByteLevel(absl::StrCat(" ", id)));
    vocabulary.types.push_back(TokenType::kNormal);
  }
  vocabulary.eos_id = 2;
  vocabulary.chat_template = kPlainChatTemplate;
  return vocabulary;
}

}  // namespace farspan
