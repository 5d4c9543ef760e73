// SPDX-License-Identifier: Apache-2.0
// A half-open range of logical token positions.
#pragma once

#include <cstdint>
#include <limits>

namespace farspan {

struct TokenRange {
  int64_t begin = 0;
  int64_t end = 0;

  int64_t size() const { return end > begin ? end - begin : 0; }
  bool empty() const { return end <= begin; }
  friend bool operator==(const TokenRange&, const TokenRange&) = default;
};

inline constexpr int64_t kUnboundedTokens = std::numeric_limits<int64_t>::max();

}  // namespace farspan
