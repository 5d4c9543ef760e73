// SPDX-License-Identifier: Apache-2.0
// The 16-bit and 8-bit floats and quantised blocks as bytes, converted one value at a time.
// Internal linkage on purpose: each ISA level compiles its own copy with its own flags.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "engine/kernels/args.h"

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

// Round to nearest even, to infinity beyond the largest; a NaN stays a quiet NaN.
static inline uint16_t FloatToHalf(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value), magnitude = bits & 0x7fffffffu;
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {
    // Adding 0.5 leaves 24 bits below the point: those of a subnormal, rounded.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

// Exact.
static inline float Fp8ToFloat(uint8_t value) {
  const uint32_t sign = static_cast<uint32_t>(value & 0x80u) << 24;
  if ((value & 0x7fu) == 0x7fu) return std::bit_cast<float>(sign | 0x7fc00000u);
  // The bits of a float16 whose exponent is biased by 8 more.
  const float magnitude = HalfToFloat(static_cast<uint16_t>((value & 0x7fu) << 7)) * 256.0f;
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
}

// Round to nearest even; beyond 448 it is 448, infinities included; a NaN stays a NaN.
static inline uint8_t FloatToFp8(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value), magnitude = bits & 0x7fffffffu;
  const auto sign = static_cast<uint8_t>((bits >> 24) & 0x80u);
  if (magnitude > 0x7f800000u) return static_cast<uint8_t>(sign | 0x7fu);
  if (magnitude >= 0x43e00000u) return static_cast<uint8_t>(sign | 0x7eu);
  if (magnitude < 0x3c800000u) {
    // Adding 2^14 leaves 9 bits below the point: those of a subnormal, rounded.
    const float shifted = std::bit_cast<float>(magnitude) + 16384.0f;
    return static_cast<uint8_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x46800000u));
  }
  const uint32_t rounded = magnitude + 0x7ffffu + ((magnitude >> 20) & 1u);
  return static_cast<uint8_t>(sign | ((rounded - 0x3c000000u) >> 20));
}

static inline float LoadHalf(const uint8_t* bytes) {
  uint16_t value;
  std::memcpy(&value, bytes, sizeof(value));
  return HalfToFloat(value);
}

// Elements of a KV cache as types, beside float.
struct Bf16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};
struct Fp8 {
  uint8_t bits;
};

static inline float Widen(float value) { return value; }
static inline float Widen(Bf16 value) { return Bf16ToFloat(value.bits); }
static inline float Widen(Half value) { return HalfToFloat(value.bits); }
static inline float Widen(Fp8 value) { return Fp8ToFloat(value.bits); }

static inline void Narrow(float value, float* out) { *out = value; }
static inline void Narrow(float value, Bf16* out) { out->bits = FloatToBf16(value); }
static inline void Narrow(float value, Half* out) { out->bits = FloatToHalf(value); }
static inline void Narrow(float value, Fp8* out) { out->bits = FloatToFp8(value); }

// Calls body.operator()<Element>() with the element's type.
template <typename Body>
static inline auto WithKvElement(KvElement element, const Body& body) {
  switch (element) {
    case KvElement::kBf16:
      return body.template operator()<Bf16>();
    case KvElement::kF16:
      return body.template operator()<Half>();
    case KvElement::kF8E4M3:
      return body.template operator()<Fp8>();
    case KvElement::kF32:
      break;
  }
  return body.template operator()<float>();
}

inline constexpr int64_t kQ40BlockBytes = 18;
inline constexpr int64_t kQ41BlockBytes = 20;
inline constexpr int64_t kQ80BlockBytes = 34;

}  // namespace farspan::kernels
