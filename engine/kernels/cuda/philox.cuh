// SPDX-License-Identifier: Apache-2.0
// Philox4x32-10 on the device, the same bits as engine/sampling/philox.
#pragma once

#include <cstdint>

#include "engine/kernels/draw_args.h"

namespace farspan::kernels::cuda {

// A uniform multiple of 2^-53 in [0, 1) that depends on the row's seed, position and sample index alone.
__device__ inline double UniformDraw(const DrawRow& row) {
  constexpr int kRounds = 10;
  constexpr uint32_t kMultiplier0 = 0xD2511F53u, kMultiplier1 = 0xCD9E8D57u;
  constexpr uint32_t kKeyStep0 = 0x9E3779B9u, kKeyStep1 = 0xBB67AE85u;
  const auto low = [](uint64_t value) { return static_cast<uint32_t>(value); };
  const auto high = [](uint64_t value) { return static_cast<uint32_t>(value >> 32); };
  const auto position = static_cast<uint64_t>(row.position), sample = static_cast<uint64_t>(row.sample_index);
  uint32_t counter[4] = {low(position), high(position), low(sample), high(sample)};
  uint32_t key0 = low(row.seed), key1 = high(row.seed);
  for (int round = 0; round < kRounds; ++round) {
    const uint32_t high0 = __umulhi(kMultiplier0, counter[0]), low0 = kMultiplier0 * counter[0];
    const uint32_t high1 = __umulhi(kMultiplier1, counter[2]), low1 = kMultiplier1 * counter[2];
    counter[0] = high1 ^ counter[1] ^ key0;
    counter[1] = low1;
    counter[2] = high0 ^ counter[3] ^ key1;
    counter[3] = low0;
    key0 += kKeyStep0;
    key1 += kKeyStep1;
  }
  const uint64_t bits = uint64_t{counter[0]} << 32 | counter[1];
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

}  // namespace farspan::kernels::cuda
