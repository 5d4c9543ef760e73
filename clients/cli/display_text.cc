// SPDX-License-Identifier: Apache-2.0
#include "clients/cli/display_text.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace farspan::cli {
namespace {

struct CodePoint {
  uint32_t value = 0;
  size_t bytes = 1;
  bool valid = false;
};

CodePoint FirstCodePoint(absl::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {lead, 1, true};
  const size_t bytes = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || text.size() < bytes) return {lead, 1, false};
  uint32_t value = lead & (0xffu >> (bytes + 1));
  for (size_t i = 1; i < bytes; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return {lead, 1, false};
    value = (value << 6) | (byte(i) & 0x3fu);
  }
  constexpr uint32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool valid = value >= kSmallest[bytes] && value <= 0x10ffff && (value < 0xd800 || value > 0xdfff);
  return valid ? CodePoint{value, bytes, true} : CodePoint{lead, 1, false};
}

bool SteersTerminal(uint32_t value) {
  return value < 0x20 || (value >= 0x7f && value < 0xa0) || (value >= 0x202a && value <= 0x202e) ||
         (value >= 0x2066 && value <= 0x2069) || value == 0x2028 || value == 0x2029;
}

bool IsWide(uint32_t value) {
  return (value >= 0x1100 && value <= 0x115f) || (value >= 0x2e80 && value <= 0xa4cf) ||
         (value >= 0xac00 && value <= 0xd7a3) || (value >= 0xf900 && value <= 0xfaff) ||
         (value >= 0xfe30 && value <= 0xfe6f) || (value >= 0xff00 && value <= 0xff60) ||
         (value >= 0x1f300 && value <= 0x1faff) || (value >= 0x20000 && value <= 0x3fffd);
}

bool IsCombining(uint32_t value) {
  return (value >= 0x300 && value <= 0x36f) || (value >= 0x200b && value <= 0x200f) ||
         (value >= 0x20d0 && value <= 0x20ff) || (value >= 0xfe00 && value <= 0xfe0f);
}

int Width(const CodePoint& point) {
  if (!point.valid) return 1;
  return IsCombining(point.value) ? 0 : IsWide(point.value) ? 2 : 1;
}

std::string Escaped(const CodePoint& point) {
  if (point.value == '\n') return "\\n";
  if (point.value == '\t') return "\\t";
  if (point.value == '\r') return "\\r";
  return point.value < 0x100 ? absl::StrFormat("\\x%02x", point.value) : absl::StrFormat("\\u%04x", point.value);
}

}  // namespace

std::string EscapeControls(absl::string_view text, Controls controls) {
  std::string result;
  result.reserve(text.size());
  while (!text.empty()) {
    const CodePoint point = FirstCodePoint(text);
    const bool kept = controls == Controls::kKeepNewlines && (point.value == '\n' || point.value == '\t');
    if (point.valid && (kept || !SteersTerminal(point.value))) {
      absl::StrAppend(&result, text.substr(0, point.bytes));
    } else {
      absl::StrAppend(&result, Escaped(point));
    }
    text.remove_prefix(point.bytes);
  }
  return result;
}

int DisplayWidth(absl::string_view text) {
  int width = 0;
  while (!text.empty()) {
    const CodePoint point = FirstCodePoint(text);
    width += Width(point);
    text.remove_prefix(point.bytes);
  }
  return width;
}

std::string ClipToWidth(absl::string_view text, int columns) {
  if (DisplayWidth(text) <= columns) return std::string(text);
  constexpr int kEllipsisColumns = 3;
  std::string result;
  int width = 0;
  while (!text.empty()) {
    const CodePoint point = FirstCodePoint(text);
    width += Width(point);
    if (width > std::max(0, columns - kEllipsisColumns)) break;
    absl::StrAppend(&result, text.substr(0, point.bytes));
    text.remove_prefix(point.bytes);
  }
  return result + "...";
}

}  // namespace farspan::cli
