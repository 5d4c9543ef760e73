// SPDX-License-Identifier: Apache-2.0
#include "tests/engine/text/naive_encode.h"

#include <unicode/uchar.h>
#include <unicode/unistr.h>

#include <algorithm>
#include <map>
#include <string>

#include "engine/text/byte_level.h"

namespace farspan {
namespace {

using CodePoints = std::u32string;
using Predicate = bool (*)(char32_t);

bool IsLetter(char32_t c) { return (U_GET_GC_MASK(static_cast<UChar32>(c)) & U_GC_L_MASK) != 0; }
bool IsNumber(char32_t c) { return (U_GET_GC_MASK(static_cast<UChar32>(c)) & U_GC_N_MASK) != 0; }
bool IsSpace(char32_t c) { return u_hasBinaryProperty(static_cast<UChar32>(c), UCHAR_WHITE_SPACE) != 0; }
bool IsOther(char32_t c) { return !IsLetter(c) && !IsNumber(c) && !IsSpace(c); }

CodePoints ToCodePoints(std::string_view text) {
  const auto units = icu::UnicodeString::fromUTF8(icu::StringPiece(text.data(), static_cast<int32_t>(text.size())));
  CodePoints code_points;
  for (int32_t i = 0; i < units.length(); i = units.moveIndex32(i, 1)) {
    code_points.push_back(static_cast<char32_t>(units.char32At(i)));
  }
  return code_points;
}

std::string ToUtf8(const CodePoints& code_points) {
  std::string text;
  icu::UnicodeString::fromUTF32(reinterpret_cast<const UChar32*>(code_points.data()),
                                static_cast<int32_t>(code_points.size()))
      .toUTF8String(text);
  return text;
}

size_t CountWhile(const CodePoints& text, size_t begin, Predicate predicate) {
  size_t end = begin;
  while (end < text.size() && predicate(text[end])) ++end;
  return end - begin;
}

// ` ?X+`
size_t MatchRun(const CodePoints& text, size_t begin, Predicate predicate) {
  const size_t space = text[begin] == U' ' ? 1 : 0;
  if (const size_t count = CountWhile(text, begin + space, predicate); count > 0) return space + count;
  return CountWhile(text, begin, predicate);
}

// How many code points the pattern of GPT-2 matches at `begin`.
size_t MatchGpt2(const CodePoints& text, size_t begin) {
  for (const CodePoints contraction : {U"'s", U"'t", U"'re", U"'ve", U"'m", U"'ll", U"'d"}) {
    if (text.compare(begin, contraction.size(), contraction) == 0) return contraction.size();
  }
  for (const Predicate predicate : {IsLetter, IsNumber, IsOther}) {
    if (const size_t count = MatchRun(text, begin, predicate); count > 0) return count;
  }
  const size_t count = CountWhile(text, begin, IsSpace);
  // `\s+(?!\S)`: the longest run that no other character follows.
  for (size_t end = begin + count; end > begin; --end) {
    if (end == text.size() || IsSpace(text[end])) return end - begin;
  }
  return count;
}

std::vector<std::string> CutIntoWords(const std::string& pre_tokenizer, std::string_view text) {
  std::vector<CodePoints> pieces(1);
  for (const char32_t c : ToCodePoints(text)) {
    if (pre_tokenizer == "smollm" && IsNumber(c)) {
      pieces.push_back({c});
      pieces.emplace_back();
    } else {
      pieces.back() += c;
    }
  }
  std::vector<std::string> words;
  for (const CodePoints& piece : pieces) {
    for (size_t begin = 0; begin < piece.size();) {
      const size_t count = MatchGpt2(piece, begin);
      words.push_back(ToUtf8(piece.substr(begin, count)));
      begin += count;
    }
  }
  return words;
}

std::vector<TokenId> EncodeWord(const Vocabulary& vocabulary, const std::string& word) {
  std::map<std::string, size_t> rank_of;
  for (const std::string& merge : vocabulary.merges) rank_of.emplace(merge, rank_of.size());
  std::vector<std::string> symbols;
  for (const char byte : word) symbols.push_back(ToByteLevel(std::string_view(&byte, 1)));
  while (true) {
    size_t best_rank = rank_of.size();
    size_t best = 0;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto merge = rank_of.find(symbols[i] + " " + symbols[i + 1]);
      const size_t rank = merge == rank_of.end() ? rank_of.size() : merge->second;
      if (rank < best_rank) {
        best_rank = rank;
        best = i;
      }
    }
    if (best_rank == rank_of.size()) break;
    symbols[best] += symbols[best + 1];
    symbols.erase(symbols.begin() + static_cast<int64_t>(best) + 1);
  }
  std::vector<TokenId> ids;
  for (const std::string& symbol : symbols) {
    ids.push_back(static_cast<TokenId>(std::find(vocabulary.tokens.begin(), vocabulary.tokens.end(), symbol) -
                                       vocabulary.tokens.begin()));
  }
  return ids;
}

}  // namespace

std::vector<TokenId> NaiveEncode(const Vocabulary& vocabulary, std::string_view text) {
  std::vector<TokenId> ids;
  std::string plain;
  const auto flush_plain = [&] {
    for (const std::string& word : CutIntoWords(vocabulary.pre_tokenizer, plain)) {
      const std::vector<TokenId> word_ids = EncodeWord(vocabulary, word);
      ids.insert(ids.end(), word_ids.begin(), word_ids.end());
    }
    plain.clear();
  };
  for (size_t offset = 0; offset < text.size();) {
    size_t longest = 0;
    TokenId literal = 0;
    for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
      const std::string& token = vocabulary.tokens[id];
      const bool is_literal = vocabulary.types[id] == TokenType::kUserDefined;
      if (is_literal && token.size() > longest && text.substr(offset, token.size()) == token) {
        longest = token.size();
        literal = static_cast<TokenId>(id);
      }
    }
    if (longest == 0) {
      plain += text[offset++];
      continue;
    }
    flush_plain();
    ids.push_back(literal);
    offset += longest;
  }
  flush_plain();
  return ids;
}

}  // namespace farspan
