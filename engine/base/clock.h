// SPDX-License-Identifier: Apache-2.0
// Monotonic time that tests can move. Wall-clock time decides nothing in the engine.
#pragma once

#include <chrono>

namespace farspan {

using SteadyTime = std::chrono::steady_clock::time_point;
using SteadyDuration = std::chrono::steady_clock::duration;

inline constexpr SteadyTime kNoDeadline = SteadyTime::max();

// Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual SteadyTime Now() const = 0;

  // The process's steady clock; lives for ever.
  static const Clock* Real();
};

}  // namespace farspan
