// SPDX-License-Identifier: Apache-2.0
#include "engine/text/byte_level.h"

#include <array>

#include "engine/text/utf8.h"

namespace farspan {
namespace {

constexpr bool StandsForItself(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

// The other 68 bytes follow each other from U+0100.
constexpr char32_t kFirstShifted = 0x100;
constexpr size_t kNumShifted = 68;

constexpr std::array<char32_t, 256> kCodePoints = [] {
  std::array<char32_t, 256> table{};
  char32_t next = kFirstShifted;
  for (int byte = 0; byte < 256; ++byte) table[byte] = StandsForItself(byte) ? byte : next++;
  return table;
}();

constexpr std::array<uint8_t, kNumShifted> kShiftedBytes = [] {
  std::array<uint8_t, kNumShifted> table{};
  size_t next = 0;
  for (int byte = 0; byte < 256; ++byte) {
    if (!StandsForItself(byte)) table[next++] = static_cast<uint8_t>(byte);
  }
  return table;
}();

}  // namespace

char32_t ByteLevelCodePoint(uint8_t byte) { return kCodePoints[byte]; }

std::string ToByteLevel(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size() * 2);
  for (const char byte : bytes) AppendUtf8(kCodePoints[static_cast<uint8_t>(byte)], text);
  return text;
}

std::optional<std::string> FromByteLevel(std::string_view text) {
  std::string bytes;
  bytes.reserve(text.size());
  for (size_t offset = 0; offset < text.size();) {
    const Utf8Sequence sequence = NextUtf8(text, offset);
    if (sequence.kind != Utf8Kind::kValid) return std::nullopt;
    const char32_t code_point = DecodeUtf8(text, offset, sequence.num_bytes);
    offset += sequence.num_bytes;
    if (code_point < 0x100 && StandsForItself(static_cast<int>(code_point))) {
      bytes.push_back(static_cast<char>(code_point));
    } else if (code_point >= kFirstShifted && code_point < kFirstShifted + kNumShifted) {
      bytes.push_back(static_cast<char>(kShiftedBytes[code_point - kFirstShifted]));
    } else {
      return std::nullopt;
    }
  }
  return bytes;
}

}  // namespace farspan
