// SPDX-License-Identifier: Apache-2.0
#include "tests/simulation/pages_machine.h"

#include <gtest/gtest.h>

namespace farspan {
namespace {

TEST(PagesMachineTest, PagesAreHeldCachedAndFreedAsTheModelSays) {
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    SCOPED_TRACE(seed);
    Choices choices(seed);
    PagesMachine machine(&choices);
    for (int step = 0; step < 500; ++step) {
      machine.RunOneStep();
      machine.Check();
    }
    machine.ReleaseAll();
  }
}

}  // namespace
}  // namespace farspan
