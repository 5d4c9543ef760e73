// SPDX-License-Identifier: Apache-2.0
#include "clients/loadgen/arrivals.h"

#include <random>

namespace farspan::loadgen {

std::vector<std::chrono::nanoseconds> ArrivalOffsets(const ArrivalOptions& options) {
  std::vector<std::chrono::nanoseconds> offsets(options.num_requests, std::chrono::nanoseconds(0));
  if (!options.request_rate) return offsets;
  std::mt19937_64 bits(options.seed);
  std::gamma_distribution<double> gap(options.burstiness, 1 / (*options.request_rate * options.burstiness));
  double seconds = 0;
  for (size_t i = 1; i < offsets.size(); ++i) {
    seconds += gap(bits);
    offsets[i] = std::chrono::nanoseconds(static_cast<int64_t>(seconds * 1e9));
  }
  return offsets;
}

}  // namespace farspan::loadgen
