// SPDX-License-Identifier: Apache-2.0
// Philox4x32-10 (Salmon et al., SC 2011): random numbers as a function of a counter, with no state to keep or restore.
#pragma once

#include <array>
#include <cstdint>

namespace farspan {

using PhiloxCounter = std::array<uint32_t, 4>;
using PhiloxKey = std::array<uint32_t, 2>;

// One block of four random words.
PhiloxCounter Philox4x32(PhiloxCounter counter, PhiloxKey key);

// Which draw of a request this is: `position` is the logical position of the token drawn.
struct DrawKey {
  uint64_t seed = 0;
  int64_t position = 0;
  int64_t sample_index = 0;
};

// A uniform multiple of 2^-53 in [0, 1) that depends on the key alone.
double UniformDraw(const DrawKey& key);

}  // namespace farspan
