// SPDX-License-Identifier: Apache-2.0
#include "engine/text/byte_vocabulary.h"

#include "engine/text/byte_level.h"
#include "engine/text/chat_template.h"

namespace farspan {

Vocabulary ByteVocabulary() {
  Vocabulary vocabulary;
  vocabulary.pre_tokenizer = "gpt-2";
  vocabulary.tokens = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
  vocabulary.types.assign(vocabulary.tokens.size(), TokenType::kControl);
  for (int byte = 0; byte < 256; ++byte) {
    vocabulary.tokens.push_back(ToByteLevel(std::string(1, static_cast<char>(byte))));
    vocabulary.types.push_back(TokenType::kNormal);
  }
  vocabulary.eos_id = 2;
  vocabulary.chat_template = kPlainChatTemplate;
  return vocabulary;
}

}  // namespace farspan
