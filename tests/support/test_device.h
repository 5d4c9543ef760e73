// SPDX-License-Identifier: Apache-2.0
// The device of tests that compare a real model's answers: FARSPAN_TEST_DEVICE, else the CPU.
#pragma once

#include <cstdlib>
#include <string>

namespace farspan {

inline std::string TestDevice() {
  const char* device = std::getenv("FARSPAN_TEST_DEVICE");
  return device == nullptr ? "cpu" : device;
}

}  // namespace farspan
