// SPDX-License-Identifier: Apache-2.0
// The input is a stream of operations on pages: take, share, fork, write, drop, publish, attach, evict, release.
#include <cstddef>
#include <cstdint>

#include "tests/simulation/pages_machine.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  farspan::Choices choices(std::span(data, size));
  farspan::PagesMachine machine(&choices);
  while (!choices.exhausted()) {
    machine.RunOneStep();
    machine.Check();
  }
  machine.ReleaseAll();
  return 0;
}
