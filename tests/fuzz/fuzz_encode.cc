// SPDX-License-Identifier: Apache-2.0
// The first byte chooses one of three tokenizers, the rest is the text. A text that is UTF-8 decodes to itself, has the
// ids of the definition if it is short, and comes out of the incremental detokenizer in valid pieces; any other is
// refused at the right byte. The bytes taken as ids detokenize alike in pieces and as a whole.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/text/detokenizer.h"
#include "engine/text/utf8.h"
#include "tests/engine/text/naive_encode.h"
#include "tests/engine/text/nasty_vocabularies.h"

namespace farspan {
namespace {

constexpr size_t kMaxNaiveBytes = 256;

struct Candidate {
  Vocabulary vocabulary;
  std::unique_ptr<const Tokenizer> tokenizer;
};

const std::vector<Candidate>& Candidates() {
  static const auto* const candidates = [] {
    auto* all = new std::vector<Candidate>;
    for (Vocabulary& vocabulary : NastyVocabularies()) all->push_back({vocabulary, MakeTokenizer(vocabulary)});
    return all;
  }();
  return *candidates;
}

void CheckDetokenizer(const Tokenizer& tokenizer, const std::vector<TokenId>& ids, bool skip_special_tokens) {
  Detokenizer detokenizer(tokenizer, skip_special_tokens);
  std::string text;
  for (const TokenId id : ids) {
    const std::string piece = detokenizer.Push(id);
    FARSPAN_CHECK(!FindInvalidUtf8(piece).has_value());
    text += piece;
  }
  const std::string tail = detokenizer.Flush();
  FARSPAN_CHECK(!FindInvalidUtf8(tail).has_value());
  FARSPAN_CHECK(text + tail == *tokenizer.Decode(ids, skip_special_tokens));
}

void CheckText(const Candidate& candidate, std::string_view text) {
  const absl::StatusOr<std::vector<TokenId>> ids = candidate.tokenizer->Encode(text);
  if (const std::optional<size_t> offset = FindInvalidUtf8(text); offset.has_value()) {
    FARSPAN_CHECK(ids.status() == absl::InvalidArgumentError(absl::StrCat("invalid UTF-8 at byte ", *offset)));
    return;
  }
  FARSPAN_CHECK(ids.ok(), ids.status().ToString());
  FARSPAN_CHECK(ids->size() <= text.size());
  FARSPAN_CHECK(*candidate.tokenizer->Decode(*ids) == text);
  for (const TokenId id : *ids) FARSPAN_CHECK(!candidate.tokenizer->IsControl(id), "id=", id);
  CheckDetokenizer(*candidate.tokenizer, *ids, /*skip_special_tokens=*/true);
  if (text.size() <= kMaxNaiveBytes) FARSPAN_CHECK(*ids == NaiveEncode(candidate.vocabulary, text));
}

}  // namespace
}  // namespace farspan

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::vector<farspan::Candidate>& candidates = farspan::Candidates();
  const farspan::Candidate& candidate = candidates[data[0] % candidates.size()];
  farspan::CheckText(candidate, std::string_view(reinterpret_cast<const char*>(data) + 1, size - 1));
  // Shifted so that bytes, control tokens and products of merges all occur.
  const std::vector<farspan::TokenId> bytes(data + 1, data + size);
  std::vector<farspan::TokenId> ids;
  for (const farspan::TokenId byte : bytes) ids.push_back((byte + data[0]) % candidate.tokenizer->vocab_size());
  farspan::CheckDetokenizer(*candidate.tokenizer, ids, /*skip_special_tokens=*/true);
  farspan::CheckDetokenizer(*candidate.tokenizer, ids, /*skip_special_tokens=*/false);
  return 0;
}
