// SPDX-License-Identifier: Apache-2.0
// The input decides everything that a simulation of the engine decides: its size, its requests, what befalls them.
#include <cstddef>
#include <cstdint>

#include "engine/base/check.h"
#include "engine/base/log.h"
#include "tests/simulation/simulation.h"

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  farspan::Log().set_level(spdlog::level::off);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr int64_t kMaxSteps = 2000;
  farspan::Choices choices(std::span(data, size));
  farspan::SimulationCounts counts;
  farspan::Simulation simulation(&choices, &counts);
  const farspan::Verdict& verdict = simulation.Run(kMaxSteps);
  FARSPAN_CHECK(verdict.ok(), verdict.invariant(), ": ", verdict.detail());
  return 0;
}
