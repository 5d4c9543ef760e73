// SPDX-License-Identifier: Apache-2.0
// UTF-8 one sequence at a time (well-formed as in table 3-7 of the Unicode standard).
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace farspan {

enum class Utf8Kind {
  kValid,       // one code point
  kInvalid,     // a maximal ill-formed subpart: what one U+FFFD stands for
  kIncomplete,  // the text ends inside of a code point that could still become valid
};

struct Utf8Sequence {
  Utf8Kind kind;
  size_t num_bytes;  // at least 1
};

// The sequence that begins at text[offset]; offset < text.size().
Utf8Sequence NextUtf8(std::string_view text, size_t offset);

// The code point at text[offset], where a valid sequence of `num_bytes` begins.
char32_t DecodeUtf8(std::string_view text, size_t offset, size_t num_bytes);

void AppendUtf8(char32_t code_point, std::string& out);

// Offset of the first byte that belongs to no code point, or nothing if all of `text` is UTF-8.
std::optional<size_t> FindInvalidUtf8(std::string_view text);

// Appends `bytes` to `out` with each ill-formed sequence replaced by U+FFFD, and returns how many bytes were taken:
// all of them if `final`, else all but an incomplete sequence at the end.
size_t AppendUtf8Lossy(std::string_view bytes, bool final, std::string& out);

}  // namespace farspan
