// SPDX-License-Identifier: Apache-2.0
#include "engine/model/content_hash.h"

#include <bit>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace farspan {

// Two chains with different odd multipliers; each step is a bijection of the state for a given word, so that a changed
// word changes the state for good.
void ContentHash::Mix(uint64_t word) {
  first_ = std::rotl(first_ ^ word, 29) * 0x9e3779b97f4a7c15;
  second_ = std::rotl(second_ ^ word, 37) * 0xc2b2ae3d27d4eb4f;
}

void ContentHash::Add(std::span<const std::byte> part) {
  Mix(part.size());
  while (part.size() >= sizeof(uint64_t)) {
    uint64_t word;
    std::memcpy(&word, part.data(), sizeof(word));
    Mix(word);
    part = part.subspan(sizeof(word));
  }
  uint64_t rest = 0;
  if (!part.empty()) std::memcpy(&rest, part.data(), part.size());
  Mix(rest);
}

std::string ContentHash::Hex() const {
  return absl::StrCat(absl::Hex(first_, absl::kZeroPad16), absl::Hex(second_, absl::kZeroPad16));
}

}  // namespace farspan
