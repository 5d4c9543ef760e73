// SPDX-License-Identifier: Apache-2.0
// Where a simulation's decisions come from: one number, or the bytes of a fuzzer's input.
#pragma once

#include <cstdint>
#include <span>

namespace farspan {

// Owned by one simulation. The same source gives the same choices on every machine.
class Choices {
 public:
  explicit Choices(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15 + 0x2545f4914f6cdd1d) {}
  // Two bytes a choice; zeros once they are used up, until when `exhausted` is false. `bytes` outlives this.
  explicit Choices(std::span<const uint8_t> bytes) : bytes_(bytes), from_bytes_(true) {}

  // In [0, bound).
  int64_t Below(int64_t bound) { return static_cast<int64_t>(Next() % static_cast<uint64_t>(bound)); }
  int64_t Between(int64_t least, int64_t most) { return least + Below(most - least + 1); }
  bool OneIn(int64_t n) { return Below(n) == n - 1; }
  bool exhausted() const { return from_bytes_ && place_ >= bytes_.size(); }

 private:
  uint64_t Next() {
    if (from_bytes_) {
      uint64_t value = 0;
      for (int i = 0; i < 2 && place_ < bytes_.size(); ++i) value = value << 8 | bytes_[place_++];
      return value;
    }
    // SplitMix64.
    uint64_t value = state_ += 0x9e3779b97f4a7c15;
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
    value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
    return value ^ (value >> 31);
  }

  uint64_t state_ = 0;
  std::span<const uint8_t> bytes_;
  size_t place_ = 0;
  bool from_bytes_ = false;
};

}  // namespace farspan
