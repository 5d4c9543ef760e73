// SPDX-License-Identifier: Apache-2.0
#include "engine/model/dequantize.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "engine/base/check.h"

namespace farspan {
namespace {

template <typename T>
T Load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

uint32_t Byte(const std::byte* from) { return std::to_integer<uint32_t>(*from); }

float LoadF16(const std::byte* from) { return F16ToFloat(Load<uint16_t>(from)); }

// The types of 32 values a block keep value i in the low nibble of byte i and value i + 16 in its high nibble.
constexpr int64_t kHalf = 16;

void DequantizeQ4_0(const std::byte* block, float* out) {
  const float scale = LoadF16(block);
  for (int64_t i = 0; i < kHalf; ++i) {
    const uint32_t pair = Byte(block + 2 + i);
    out[i] = scale * static_cast<float>(static_cast<int>(pair & 15) - 8);
    out[i + kHalf] = scale * static_cast<float>(static_cast<int>(pair >> 4) - 8);
  }
}

void DequantizeQ4_1(const std::byte* block, float* out) {
  const float scale = LoadF16(block);
  const float min = LoadF16(block + 2);
  for (int64_t i = 0; i < kHalf; ++i) {
    const uint32_t pair = Byte(block + 4 + i);
    out[i] = scale * static_cast<float>(pair & 15) + min;
    out[i + kHalf] = scale * static_cast<float>(pair >> 4) + min;
  }
}

// Bit i of `high_bits` is the fifth bit of value i.
uint32_t FifthBit(uint32_t high_bits, int64_t i) { return ((high_bits >> i) & 1) << 4; }

void DequantizeQ5_0(const std::byte* block, float* out) {
  const float scale = LoadF16(block);
  const auto high_bits = Load<uint32_t>(block + 2);
  for (int64_t i = 0; i < kHalf; ++i) {
    const uint32_t pair = Byte(block + 6 + i);
    const uint32_t low = (pair & 15) | FifthBit(high_bits, i);
    const uint32_t high = (pair >> 4) | FifthBit(high_bits, i + kHalf);
    out[i] = scale * static_cast<float>(static_cast<int>(low) - 16);
    out[i + kHalf] = scale * static_cast<float>(static_cast<int>(high) - 16);
  }
}

void DequantizeQ5_1(const std::byte* block, float* out) {
  const float scale = LoadF16(block);
  const float min = LoadF16(block + 2);
  const auto high_bits = Load<uint32_t>(block + 4);
  for (int64_t i = 0; i < kHalf; ++i) {
    const uint32_t pair = Byte(block + 8 + i);
    out[i] = scale * static_cast<float>((pair & 15) | FifthBit(high_bits, i)) + min;
    out[i + kHalf] = scale * static_cast<float>((pair >> 4) | FifthBit(high_bits, i + kHalf)) + min;
  }
}

void DequantizeQ8_0(const std::byte* block, float* out) {
  const float scale = LoadF16(block);
  for (int64_t i = 0; i < 32; ++i) out[i] = scale * static_cast<float>(Load<int8_t>(block + 2 + i));
}

// The eight 6-bit scales and minima of a block of 256, packed into 12 bytes: the first four keep their low six bits in
// bytes 0 to 3 (scales) and 4 to 7 (minima); the last four keep four bits in bytes 8 to 11 and two above the first.
struct ScaleAndMin {
  float scale;
  float min;
};

ScaleAndMin UnpackScale(const std::byte* packed, int64_t i) {
  if (i < 4) return {static_cast<float>(Byte(packed + i) & 63), static_cast<float>(Byte(packed + i + 4) & 63)};
  const uint32_t low = Byte(packed + i + 4);
  return {static_cast<float>((low & 15) | (Byte(packed + i - 4) >> 6) << 4),
          static_cast<float>((low >> 4) | (Byte(packed + i) >> 6) << 4)};
}

// Eight groups of 32: group 2g in the low nibbles of bytes 32g.., group 2g + 1 in the high ones.
void DequantizeQ4_K(const std::byte* block, float* out) {
  const float scale = LoadF16(block);
  const float min = LoadF16(block + 2);
  for (int64_t group = 0; group < 8; ++group) {
    const ScaleAndMin part = UnpackScale(block + 4, group);
    const std::byte* nibbles = block + 16 + group / 2 * 32;
    for (int64_t i = 0; i < 32; ++i) {
      const uint32_t level = (Byte(nibbles + i) >> (group % 2 * 4)) & 15;
      *out++ = scale * part.scale * static_cast<float>(level) - min * part.min;
    }
  }
}

// As Q4_K, with bit `group` of byte i of the high bits as the fifth bit of value i.
void DequantizeQ5_K(const std::byte* block, float* out) {
  const float scale = LoadF16(block);
  const float min = LoadF16(block + 2);
  const std::byte* high_bits = block + 16;
  for (int64_t group = 0; group < 8; ++group) {
    const ScaleAndMin part = UnpackScale(block + 4, group);
    const std::byte* nibbles = block + 48 + group / 2 * 32;
    for (int64_t i = 0; i < 32; ++i) {
      const uint32_t level = ((Byte(nibbles + i) >> (group % 2 * 4)) & 15) | ((Byte(high_bits + i) >> group) & 1) << 4;
      *out++ = scale * part.scale * static_cast<float>(level) - min * part.min;
    }
  }
}

// Two halves of 128 values; in each, run r of 32 takes its low four bits from byte 32 (r % 2) + i, low nibble first,
// and its high two from bits 2r of byte i. Sixteen values share an 8-bit scale.
void DequantizeQ6_K(const std::byte* block, float* out) {
  const float scale = LoadF16(block + 208);
  for (int64_t half = 0; half < 2; ++half) {
    const std::byte* low = block + half * 64;
    const std::byte* high = block + 128 + half * 32;
    const std::byte* scales = block + 192 + half * 8;
    for (int64_t run = 0; run < 4; ++run) {
      for (int64_t i = 0; i < 32; ++i) {
        const uint32_t nibble = (Byte(low + run % 2 * 32 + i) >> (run / 2 * 4)) & 15;
        const uint32_t level = nibble | ((Byte(high + i) >> (2 * run)) & 3) << 4;
        const auto part = static_cast<float>(Load<int8_t>(scales + 2 * run + i / 16));
        *out++ = scale * part * static_cast<float>(static_cast<int>(level) - 32);
      }
    }
  }
}

void DequantizeBlock(GgufTensorType type, const std::byte* block, float* out) {
  switch (type) {
    case GgufTensorType::kF32:
      *out = Load<float>(block);
      return;
    case GgufTensorType::kF16:
      *out = LoadF16(block);
      return;
    case GgufTensorType::kBf16:
      *out = Bf16ToFloat(Load<uint16_t>(block));
      return;
    case GgufTensorType::kQ4_0:
      return DequantizeQ4_0(block, out);
    case GgufTensorType::kQ4_1:
      return DequantizeQ4_1(block, out);
    case GgufTensorType::kQ5_0:
      return DequantizeQ5_0(block, out);
    case GgufTensorType::kQ5_1:
      return DequantizeQ5_1(block, out);
    case GgufTensorType::kQ8_0:
      return DequantizeQ8_0(block, out);
    case GgufTensorType::kQ4_K:
      return DequantizeQ4_K(block, out);
    case GgufTensorType::kQ5_K:
      return DequantizeQ5_K(block, out);
    case GgufTensorType::kQ6_K:
      return DequantizeQ6_K(block, out);
  }
}

// Byte offsets of the f16 fields of a quantised block; -1 for none.
std::array<int, 2> ScaleOffsets(GgufTensorType type) {
  switch (type) {
    case GgufTensorType::kQ4_0:
    case GgufTensorType::kQ5_0:
    case GgufTensorType::kQ8_0:
      return {0, -1};
    case GgufTensorType::kQ4_1:
    case GgufTensorType::kQ5_1:
    case GgufTensorType::kQ4_K:
    case GgufTensorType::kQ5_K:
      return {0, 2};
    case GgufTensorType::kQ6_K:
      return {208, -1};
    case GgufTensorType::kF16:
      return {0, -1};
    case GgufTensorType::kF32:
    case GgufTensorType::kBf16:
      break;
  }
  return {-1, -1};
}

bool F16IsFinite(const std::byte* from) { return (Load<uint16_t>(from) & 0x7c00) != 0x7c00; }

bool BlockIsFinite(GgufTensorType type, const std::array<int, 2>& scales, const std::byte* block) {
  if (type == GgufTensorType::kF32) return std::isfinite(Load<float>(block));
  if (type == GgufTensorType::kBf16) return std::isfinite(Bf16ToFloat(Load<uint16_t>(block)));
  return std::all_of(scales.begin(), scales.end(),
                     [&](int offset) { return offset < 0 || F16IsFinite(block + offset); });
}

}  // namespace

float F16ToFloat(uint16_t bits) {
  const uint32_t sign = (bits & 0x8000u) << 16;
  const uint32_t exponent = (bits >> 10) & 31u;
  const uint32_t mantissa = bits & 0x3ffu;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | mantissa << 13);
  if (exponent == 0) {
    const float magnitude = std::ldexp(static_cast<float>(mantissa), -24);
    return sign != 0 ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
}

uint16_t FloatToBf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if (std::isnan(value)) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

uint16_t FloatToF16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  if (std::isnan(value)) return static_cast<uint16_t>(sign | 0x7e00);
  const float magnitude = std::fabs(value);
  if (magnitude >= 65520.0f) return static_cast<uint16_t>(sign | 0x7c00);
  // In steps of the result's last bit, which rint rounds to even.
  const int exponent = std::max(std::ilogb(magnitude), -14);
  if (magnitude == 0) return sign;
  const auto steps = static_cast<uint32_t>(std::rint(std::ldexp(magnitude, 10 - exponent)));
  return static_cast<uint16_t>(sign | ((static_cast<uint32_t>(exponent + 14) << 10) + steps));
}

void DequantizeRow(GgufTensorType type, std::span<const std::byte> row, std::span<float> out) {
  const GgufTensorTypeTraits& traits = TraitsOf(type);
  const auto num_blocks = static_cast<int64_t>(out.size()) / traits.block_values;
  FARSPAN_CHECK(static_cast<int64_t>(out.size()) == num_blocks * traits.block_values &&
                static_cast<int64_t>(row.size()) == num_blocks * traits.block_bytes);
  for (int64_t i = 0; i < num_blocks; ++i) {
    DequantizeBlock(type, row.data() + i * traits.block_bytes, out.data() + i * traits.block_values);
  }
}

bool RowIsFinite(GgufTensorType type, std::span<const std::byte> row) {
  const int64_t block_bytes = TraitsOf(type).block_bytes;
  const std::array<int, 2> scales = ScaleOffsets(type);
  for (size_t begin = 0; begin < row.size(); begin += static_cast<size_t>(block_bytes)) {
    if (!BlockIsFinite(type, scales, row.data() + begin)) return false;
  }
  return true;
}

}  // namespace farspan
