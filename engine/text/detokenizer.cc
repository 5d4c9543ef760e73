// SPDX-License-Identifier: Apache-2.0
#include "engine/text/detokenizer.h"

#include "engine/text/utf8.h"

namespace farspan {

std::string Detokenizer::Push(TokenId id) {
  if (skip_special_tokens_ && tokenizer_.IsControl(id)) return {};
  incomplete_ += tokenizer_.TokenBytes(id);
  std::string text;
  incomplete_.erase(0, AppendUtf8Lossy(incomplete_, /*final=*/false, text));
  return text;
}

std::string Detokenizer::Flush() {
  std::string text;
  AppendUtf8Lossy(incomplete_, /*final=*/true, text);
  incomplete_.clear();
  return text;
}

}  // namespace farspan
