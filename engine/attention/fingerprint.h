// SPDX-License-Identifier: Apache-2.0
// Builds a KvFingerprint from the options that change what a policy writes into KV pages.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string_view>

#include "engine/base/ids.h"

namespace farspan {

// 64-bit FNV-1a over the name and the numbers, length-framed by their fixed widths. Stable across builds and never
// zero, which is dense's.
constexpr KvFingerprint MakeFingerprint(std::string_view policy_name, std::initializer_list<int64_t> numbers) {
  constexpr uint64_t kPrime = 0x100000001b3;
  uint64_t hash = 0xcbf29ce484222325;
  const auto add = [&hash](uint64_t byte) { hash = (hash ^ byte) * kPrime; };
  for (const char c : policy_name) add(static_cast<unsigned char>(c));
  add(0);
  for (const int64_t number : numbers) {
    for (int shift = 0; shift < 64; shift += 8) add((static_cast<uint64_t>(number) >> shift) & 0xff);
  }
  return KvFingerprint{hash == 0 ? 1 : hash};
}

}  // namespace farspan
