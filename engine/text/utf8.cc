// SPDX-License-Identifier: Apache-2.0
#include "engine/text/utf8.h"

#include <cstdint>

namespace farspan {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

struct LeadByte {
  size_t num_bytes;  // 0: no sequence begins so
  uint8_t second_min;
  uint8_t second_max;
};

LeadByte ClassifyLead(uint8_t lead) {
  if (lead < 0x80) return {1, 0, 0};
  if (lead < 0xC2) return {0, 0, 0};
  if (lead < 0xE0) return {2, 0x80, 0xBF};
  if (lead == 0xE0) return {3, 0xA0, 0xBF};
  if (lead == 0xED) return {3, 0x80, 0x9F};
  if (lead < 0xF0) return {3, 0x80, 0xBF};
  if (lead == 0xF0) return {4, 0x90, 0xBF};
  if (lead < 0xF4) return {4, 0x80, 0xBF};
  if (lead == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

}  // namespace

Utf8Sequence NextUtf8(std::string_view text, size_t offset) {
  const LeadByte lead = ClassifyLead(static_cast<uint8_t>(text[offset]));
  if (lead.num_bytes == 0) return {Utf8Kind::kInvalid, 1};
  for (size_t i = 1; i < lead.num_bytes; ++i) {
    if (offset + i == text.size()) return {Utf8Kind::kIncomplete, i};
    const uint8_t byte = static_cast<uint8_t>(text[offset + i]);
    const uint8_t min = i == 1 ? lead.second_min : 0x80;
    const uint8_t max = i == 1 ? lead.second_max : 0xBF;
    if (byte < min || byte > max) return {Utf8Kind::kInvalid, i};
  }
  return {Utf8Kind::kValid, lead.num_bytes};
}

char32_t DecodeUtf8(std::string_view text, size_t offset, size_t num_bytes) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[offset + i]); };
  const auto low_bits = [&](size_t i) { return static_cast<char32_t>(byte(i) & 0x3F); };
  switch (num_bytes) {
    case 1:
      return byte(0);
    case 2:
      return static_cast<char32_t>(byte(0) & 0x1F) << 6 | low_bits(1);
    case 3:
      return static_cast<char32_t>(byte(0) & 0x0F) << 12 | low_bits(1) << 6 | low_bits(2);
    default:
      return static_cast<char32_t>(byte(0) & 0x07) << 18 | low_bits(1) << 12 | low_bits(2) << 6 | low_bits(3);
  }
}

void AppendUtf8(char32_t code_point, std::string& out) {
  const auto continuation = [&](int shift) { out.push_back(static_cast<char>(0x80 | (code_point >> shift & 0x3F))); };
  if (code_point < 0x80) {
    out.push_back(static_cast<char>(code_point));
  } else if (code_point < 0x800) {
    out.push_back(static_cast<char>(0xC0 | code_point >> 6));
    continuation(0);
  } else if (code_point < 0x10000) {
    out.push_back(static_cast<char>(0xE0 | code_point >> 12));
    continuation(6);
    continuation(0);
  } else {
    out.push_back(static_cast<char>(0xF0 | code_point >> 18));
    continuation(12);
    continuation(6);
    continuation(0);
  }
}

std::optional<size_t> FindInvalidUtf8(std::string_view text) {
  for (size_t offset = 0; offset < text.size();) {
    const Utf8Sequence sequence = NextUtf8(text, offset);
    if (sequence.kind != Utf8Kind::kValid) return offset;
    offset += sequence.num_bytes;
  }
  return std::nullopt;
}

size_t AppendUtf8Lossy(std::string_view bytes, bool final, std::string& out) {
  size_t offset = 0;
  while (offset < bytes.size()) {
    const Utf8Sequence sequence = NextUtf8(bytes, offset);
    if (sequence.kind == Utf8Kind::kIncomplete && !final) break;
    out.append(sequence.kind == Utf8Kind::kValid ? bytes.substr(offset, sequence.num_bytes) : kReplacement);
    offset += sequence.num_bytes;
  }
  return offset;
}

}  // namespace farspan
