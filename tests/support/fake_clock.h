// SPDX-License-Identifier: Apache-2.0
// A clock that moves only when a test says so. Thread-safe.
#pragma once

#include <atomic>

#include "engine/base/clock.h"

namespace farspan {

class FakeClock final : public Clock {
 public:
  SteadyTime Now() const override { return SteadyTime(SteadyDuration(ticks_.load())); }
  void Advance(SteadyDuration duration) { ticks_.fetch_add(duration.count()); }

 private:
  std::atomic<SteadyDuration::rep> ticks_{SteadyDuration(std::chrono::hours(1)).count()};
};

}  // namespace farspan
