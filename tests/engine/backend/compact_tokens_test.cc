// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "engine/backend/cpu_backend.h"
#include "tests/engine/kernels/compact_case.h"

namespace farspan {
namespace {

TEST(CompactTokensTest, GivesEachHeadItsTokensAndFilledRunsTheirBounds) {
  kernels::Random random;
  for (const CpuIsa isa : {CpuIsa::kPortable, CpuIsa::kAuto}) {
    const auto backend = *CpuBackend::Create({.isa = isa, .num_threads = 2});
    for (int trial = 0; trial < 30; ++trial) {
      const kernels::CompactCase tokens(&random);
      std::vector<uint8_t> bytes = tokens.bytes(), bounds = tokens.PoisonedBounds();
      backend->CompactTokens(tokens.Args(bytes.data(), bounds.data(), tokens.sources().data(), tokens.pages().data()));
      ASSERT_EQ(bytes, tokens.ExpectedBytes());
      ASSERT_TRUE(tokens.SameValues(bounds, tokens.ExpectedBounds()));
      bytes = tokens.bytes();
      backend->CompactTokens(tokens.Args(bytes.data(), nullptr, tokens.sources().data(), tokens.pages().data()));
      ASSERT_EQ(bytes, tokens.ExpectedBytes()) << "without bounds";
    }
  }
}

}  // namespace
}  // namespace farspan
