// SPDX-License-Identifier: Apache-2.0
// How many threads the CPU backend should have.
#pragma once

#include <cstdint>

namespace farspan {

// Physical cores among the CPUs that this process may run on, bounded by its container's CPU quota; at least 1. Two
// hardware threads of one core share the units that matrix products need.
int64_t AvailableCores();

}  // namespace farspan
