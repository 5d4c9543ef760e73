// SPDX-License-Identifier: Apache-2.0
// When the requests of a load run are due.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace farspan::loadgen {

struct ArrivalOptions {
  size_t num_requests = 0;
  // Requests a second; absent: all are due at once.
  std::optional<double> request_rate;
  // Shape of the gamma distribution of the gaps: 1 is a Poisson process, less is burstier, more is more even.
  double burstiness = 1;
  uint64_t seed = 0;
};

// Offsets from the start of the run, ascending, the first at 0. Gaps have mean 1 / request_rate and variance
// mean^2 / burstiness. Equal options give equal offsets in one build.
std::vector<std::chrono::nanoseconds> ArrivalOffsets(const ArrivalOptions& options);

}  // namespace farspan::loadgen
