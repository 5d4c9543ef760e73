// SPDX-License-Identifier: Apache-2.0
// Random values of weights and pages, for every device: each depends on a key and its index alone, by integer
// arithmetic and one rounding, so that two devices make the same bits.
#pragma once

#include <bit>
#include <cstdint>

#include "engine/kernels/args.h"

namespace farspan::kernels {

inline constexpr int64_t kRandomBlock = kQuantBlock;

// The counter's word in the stream of `key`, by SplitMix64.
constexpr uint64_t RandomWord(uint64_t key, uint64_t counter) {
  uint64_t word = key + (counter + 1) * 0x9e3779b97f4a7c15u;
  word = (word ^ (word >> 30)) * 0xbf58476d1ce4e5b9u;
  word = (word ^ (word >> 27)) * 0x94d049bb133111ebu;
  return word ^ (word >> 31);
}

// 2^exponent, for exponents of normal numbers.
constexpr float PowerOfTwo(int exponent) { return std::bit_cast<float>(static_cast<uint32_t>(exponent + 127) << 23); }

// To the nearest, ties to even; not for NaN.
constexpr uint16_t NearestBf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// The same of float16, for magnitudes up to its largest.
constexpr uint16_t NearestHalf(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t magnitude = bits & 0x7fffffffu, sign = (bits >> 16) & 0x8000u;
  const uint32_t subnormal = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  const uint32_t normal = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13;
  return static_cast<uint16_t>(sign | (magnitude < 0x38800000u ? subnormal : normal));
}

// And of fp8 (e4m3), for magnitudes up to 448.
constexpr uint8_t NearestFp8(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t magnitude = bits & 0x7fffffffu, sign = (bits >> 24) & 0x80u;
  const uint32_t subnormal = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 16384.0f) - 0x46800000u;
  const uint32_t normal = (magnitude + 0x7ffffu + ((magnitude >> 20) & 1u) - 0x3c000000u) >> 20;
  return static_cast<uint8_t>(sign | (magnitude < 0x3c800000u ? subnormal : normal));
}

// Block `block` of the values, at its place in args.data.
template <RandomFormat kFormat>
constexpr void FillRandomBlock(const FillRandomArgs& args, int64_t block) {
  constexpr int64_t kPerWord = 4;
  const auto first_word = static_cast<uint64_t>(block * (kRandomBlock / kPerWord));
  if constexpr (kFormat != RandomFormat::kQ4_0 && kFormat != RandomFormat::kQ8_0) {
    const float step = PowerOfTwo(args.exponent - 15);
    const int64_t begin = block * kRandomBlock, left = args.num_values - begin;
    for (int64_t i = 0; i < (left < kRandomBlock ? left : kRandomBlock); ++i) {
      const uint64_t word = RandomWord(args.key, first_word + static_cast<uint64_t>(i / kPerWord));
      const float value = static_cast<float>(static_cast<int16_t>(word >> (16 * (i % kPerWord)) & 0xffff)) * step;
      if constexpr (kFormat == RandomFormat::kF32) static_cast<float*>(args.data)[begin + i] = value;
      if constexpr (kFormat == RandomFormat::kF16) static_cast<uint16_t*>(args.data)[begin + i] = NearestHalf(value);
      if constexpr (kFormat == RandomFormat::kF8E4M3) static_cast<uint8_t*>(args.data)[begin + i] = NearestFp8(value);
      if constexpr (kFormat == RandomFormat::kBf16) static_cast<uint16_t*>(args.data)[begin + i] = NearestBf16(value);
    }
  } else {
    // A scale of float16 with nine random bits of mantissa, then the quants, all of whose bits are random.
    constexpr int64_t kQuantBytes = kFormat == RandomFormat::kQ4_0 ? kQuantBlock / 2 : kQuantBlock;
    constexpr int kQuantBits = kFormat == RandomFormat::kQ4_0 ? 3 : 7;
    auto* const out = static_cast<uint16_t*>(args.data) + block * (kQuantBytes / 2 + 1);
    const uint64_t scale = RandomWord(~args.key, static_cast<uint64_t>(block)) & 0x1ff;
    out[0] = static_cast<uint16_t>((static_cast<uint64_t>(args.exponent - kQuantBits + 15) << 10) | scale);
    for (int64_t i = 0; i < kQuantBytes / 2; ++i) {
      const uint64_t word = RandomWord(args.key, first_word + static_cast<uint64_t>(i / kPerWord));
      out[1 + i] = static_cast<uint16_t>(word >> (16 * (i % kPerWord)));
    }
  }
}

}  // namespace farspan::kernels
