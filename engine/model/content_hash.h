// SPDX-License-Identifier: Apache-2.0
// A fast 128-bit fingerprint of a model's content. Not a signature: it tells models apart, it does not prove one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace farspan {

// One thread. Each part is framed by its length, so ("ab", "c") differs from ("a", "bc").
class ContentHash {
 public:
  void Add(std::span<const std::byte> part);
  void AddText(std::string_view part) { Add(std::as_bytes(std::span(part.data(), part.size()))); }

  // 32 hexadecimal digits of what was added so far.
  std::string Hex() const;

 private:
  void Mix(uint64_t word);

  uint64_t first_ = 0x243f6a8885a308d3;
  uint64_t second_ = 0x13198a2e03707344;
};

}  // namespace farspan
