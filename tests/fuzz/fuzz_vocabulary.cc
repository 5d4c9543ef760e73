// SPDX-License-Identifier: Apache-2.0
// A vocabulary out of any bytes: each line adds a token ('0' to '4' and its text; the digit is the type), a merge
// ('m'), a special id ('b', 'e', 't' and a byte), changes a token ('x') or names the pre-tokenizer ('p'). It is refused
// with a status, or accepted and then decodes what it encodes.
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "engine/base/check.h"
#include "tests/engine/text/test_vocabulary.h"

namespace farspan {
namespace {

void AddLine(const std::string& line, Vocabulary& vocabulary) {
  if (line.empty()) return;
  const std::string rest = line.substr(1);
  const TokenId id = rest.empty() ? -1 : static_cast<TokenId>(static_cast<uint8_t>(rest[0])) * 2;
  switch (line[0]) {
    case '0':
    case '1':
    case '2':
    case '3':
    case '4':
      vocabulary.tokens.push_back(rest);
      vocabulary.types.push_back(static_cast<TokenType>(line[0] - '0'));
      break;
    case 'm':
      vocabulary.merges.push_back(rest);
      break;
    case 'b':
      vocabulary.bos_id = id;
      break;
    case 'e':
      vocabulary.eos_id = id;
      break;
    case 't':
      vocabulary.eot_id = id;
      break;
    case 'p':
      vocabulary.pre_tokenizer = rest;
      break;
    case 'x':  // an entry of the table gets another text
      vocabulary.tokens[static_cast<size_t>(id + 1) % vocabulary.tokens.size()] = rest;
      break;
    default:
      break;
  }
}

void CheckInput(const std::string& input) {
  Vocabulary vocabulary = MakeVocabulary();
  const std::vector<std::string> lines = absl::StrSplit(input, '\n');
  for (const std::string& line : lines) AddLine(line, vocabulary);
  const auto tokenizer = CreateBpeTokenizer(vocabulary);
  if (!tokenizer.ok()) {
    FARSPAN_CHECK(tokenizer.status().code() == absl::StatusCode::kInvalidArgument);
    FARSPAN_CHECK(!tokenizer.status().message().empty());
    return;
  }
  std::string everything = "The quick brown fox, 12 don't  \n\n\taaaabbbb <|im_start|>";
  for (const std::string& token : vocabulary.tokens) everything += token;
  for (const std::string& text : {everything, input}) {
    const auto ids = (*tokenizer)->Encode(text);
    if (!ids.ok()) continue;
    FARSPAN_CHECK(*(*tokenizer)->Decode(*ids) == text);
    for (const TokenId id : *ids) FARSPAN_CHECK(!(*tokenizer)->IsControl(id), "id=", id);
  }
}

}  // namespace
}  // namespace farspan

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  farspan::CheckInput(std::string(reinterpret_cast<const char*>(data), size));
  return 0;
}
