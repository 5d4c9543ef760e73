// SPDX-License-Identifier: Apache-2.0
#include "engine/text/pre_tokenizer.h"

#include <unicode/uchar.h>

#include <array>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "engine/text/utf8.h"

namespace farspan {
namespace {

constexpr std::pair<const char*, PreTokenizer> kKnown[] = {{"gpt-2", PreTokenizer::kGpt2},
                                                           {"smollm", PreTokenizer::kSmollm}};

}  // namespace

absl::StatusOr<PreTokenizer> ParsePreTokenizer(std::string_view name) {
  std::string known;
  for (const auto& [known_name, pre_tokenizer] : kKnown) {
    if (name == known_name) return pre_tokenizer;
    absl::StrAppend(&known, known.empty() ? "" : ", ", known_name);
  }
  return absl::InvalidArgumentError(absl::StrCat("pre_tokenizer: expected one of ", known, "; got \"",
                                                 absl::Utf8SafeCHexEscape(std::string(name.substr(0, 64))), "\""));
}

WordScanner::CharClass WordScanner::Classify(char32_t code_point) {
  const UChar32 c = static_cast<UChar32>(code_point);
  const uint32_t category = U_GET_GC_MASK(c);
  if ((category & U_GC_L_MASK) != 0) return CharClass::kLetter;
  if ((category & U_GC_N_MASK) != 0) return CharClass::kNumber;
  return u_isUWhiteSpace(c) ? CharClass::kSpace : CharClass::kOther;
}

WordScanner::Char WordScanner::CharAt(size_t offset) const {
  if (offset == text_.size()) return {CharClass::kEnd, 0};
  static const std::array<CharClass, 128> ascii_classes = [] {
    std::array<CharClass, 128> classes;
    for (char32_t c = 0; c < 128; ++c) classes[c] = Classify(c);
    return classes;
  }();
  const uint8_t lead = static_cast<uint8_t>(text_[offset]);
  if (lead < 0x80) return {ascii_classes[lead], 1};
  const size_t num_bytes = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  return {Classify(DecodeUtf8(text_, offset, num_bytes)), num_bytes};
}

WordScanner::Char WordScanner::CharInPieceAt(size_t offset) const {
  const Char c = CharAt(offset);
  const bool isolated = pre_tokenizer_ == PreTokenizer::kSmollm && c.kind == CharClass::kNumber;
  return isolated ? Char{CharClass::kEnd, 0} : c;
}

size_t WordScanner::ContractionBytesAt(size_t offset) const {
  for (const std::string_view contraction : {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"}) {
    if (text_.substr(offset, contraction.size()) == contraction) return contraction.size();
  }
  return 0;
}

// A run of white space leaves its last code point to the word that follows; at the end of the piece it keeps it.
size_t WordScanner::WhitespaceEndAt(size_t offset) const {
  size_t last = offset;
  size_t end = offset;
  Char c = CharInPieceAt(end);
  while (c.kind == CharClass::kSpace) {
    last = end;
    end += c.num_bytes;
    c = CharInPieceAt(end);
  }
  return c.kind == CharClass::kEnd || last == offset ? end : last;
}

std::string_view WordScanner::Take(size_t end) {
  const std::string_view word = text_.substr(offset_, end - offset_);
  offset_ = end;
  return word;
}

std::optional<std::string_view> WordScanner::Next() {
  if (offset_ == text_.size()) return std::nullopt;
  Char c = CharInPieceAt(offset_);
  if (c.kind == CharClass::kEnd) return Take(offset_ + CharAt(offset_).num_bytes);
  if (text_[offset_] == '\'') {
    if (const size_t num_bytes = ContractionBytesAt(offset_); num_bytes > 0) return Take(offset_ + num_bytes);
  }
  size_t end = offset_;
  if (text_[offset_] == ' ') {
    const Char next = CharInPieceAt(offset_ + 1);
    if (next.kind != CharClass::kSpace && next.kind != CharClass::kEnd) {
      c = next;
      end = offset_ + 1;
    }
  }
  if (c.kind == CharClass::kSpace) return Take(WhitespaceEndAt(offset_));
  const CharClass kind = c.kind;
  while (c.kind == kind) {
    end += c.num_bytes;
    c = CharInPieceAt(end);
  }
  return Take(end);
}

}  // namespace farspan
