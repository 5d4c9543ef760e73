// SPDX-License-Identifier: Apache-2.0
// The byte-level alphabet of GPT-2: each byte is written as one printable code point, so that a vocabulary file holds
// no control characters. 0x20 is U+0120 ("Ġ"), 0x0A is U+010A ("Ċ"), printable Latin-1 is itself.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace farspan {

char32_t ByteLevelCodePoint(uint8_t byte);

std::string ToByteLevel(std::string_view bytes);

// The bytes that `text` spells, or nothing if it is not UTF-8 or holds a code point outside the alphabet.
std::optional<std::string> FromByteLevel(std::string_view text);

}  // namespace farspan
