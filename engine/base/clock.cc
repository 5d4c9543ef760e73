// SPDX-License-Identifier: Apache-2.0
#include "engine/base/clock.h"

namespace farspan {
namespace {

class RealClock final : public Clock {
 public:
  SteadyTime Now() const override { return std::chrono::steady_clock::now(); }
};

}  // namespace

const Clock* Clock::Real() {
  static const RealClock clock;
  return &clock;
}

}  // namespace farspan
