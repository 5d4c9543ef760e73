// SPDX-License-Identifier: Apache-2.0
// Where the parts of a packed row of x lie. Internal linkage, as everything that AVX-512 flags compile.
#pragma once

#include <cstdint>

#include "engine/kernels/args.h"

namespace farspan::kernels::avx512 {

struct PackedRow {
  int16_t* levels;     // [columns]
  float* scales;       // [columns / 32]
  float* scaled_sums;  // [columns / 32], scale times the sum of the levels
  int32_t* sums;       // [columns / 32], of the levels
};

static inline PackedRow PackedRowAt(void* packed, int64_t row, int64_t columns) {
  PackedRow parts;
  parts.levels = reinterpret_cast<int16_t*>(static_cast<uint8_t*>(packed) + row * PackedRowBytes(columns));
  parts.scales = reinterpret_cast<float*>(parts.levels + columns);
  parts.scaled_sums = parts.scales + columns / kQuantBlock;
  parts.sums = reinterpret_cast<int32_t*>(parts.scaled_sums + columns / kQuantBlock);
  return parts;
}

}  // namespace farspan::kernels::avx512
