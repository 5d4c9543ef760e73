// SPDX-License-Identifier: Apache-2.0
// The 16-bit floats and quantised blocks as bytes, converted one value at a time.
// Internal linkage on purpose: each ISA level compiles its own copy with its own flags.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

namespace farspan::kernels {

static inline float Bf16ToFloat(uint16_t value) { return std::bit_cast<float>(static_cast<uint32_t>(value) << 16); }

// Round to nearest even; a NaN stays a (quiet) NaN.
static inline uint16_t FloatToBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// Exact, subnormals, infinities and NaN included.
static inline float HalfToFloat(uint16_t value) {
  const uint32_t sign = static_cast<uint32_t>(value & 0x8000u) << 16;
  const uint32_t exponent = (value >> 10) & 0x1fu;
  const uint32_t mantissa = value & 0x3ffu;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
  }
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  return std::bit_cast<float>(sign | ((exponent + 112u) << 23) | (mantissa << 13));
}

static inline float LoadHalf(const uint8_t* bytes) {
  uint16_t value;
  std::memcpy(&value, bytes, sizeof(value));
  return HalfToFloat(value);
}

inline constexpr int64_t kQ40BlockBytes = 18;
inline constexpr int64_t kQ41BlockBytes = 20;
inline constexpr int64_t kQ80BlockBytes = 34;

}  // namespace farspan::kernels
