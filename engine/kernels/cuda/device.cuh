// SPDX-License-Identifier: Apache-2.0
// What kernels share: warp reductions in a fixed order, 16-bit floats, dequantised weights one value at a time.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "engine/kernels/args.h"

namespace farspan::kernels::cuda {

inline constexpr int kWarpThreads = 32;
inline constexpr unsigned kWholeWarp = 0xffffffffu;

// The same sum in every lane, added in a butterfly: one order, whatever the values.
__device__ inline float WarpSum(float value) {
  for (int offset = kWarpThreads / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(kWholeWarp, value, offset);
  return value;
}

__device__ inline float LoadHalf(const uint8_t* bytes) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(bytes[0] | bytes[1] << 8)));
}

__device__ inline float LoadBf16(const uint16_t* values, int64_t index) {
  return __uint_as_float(static_cast<uint32_t>(values[index]) << 16);
}

// Round to nearest even; a NaN stays a quiet NaN. The same bits as the CPU's.
__device__ inline uint16_t ToBf16(float value) {
  const uint32_t bits = __float_as_uint(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// Value `column` of a row of weights.
template <WeightType kType>
__device__ inline float LoadWeight(const uint8_t* row, int64_t column) {
  if constexpr (kType == WeightType::kF32) return reinterpret_cast<const float*>(row)[column];
  if constexpr (kType == WeightType::kBf16) return LoadBf16(reinterpret_cast<const uint16_t*>(row), column);
  const int64_t block = column / kQuantBlock, i = column % kQuantBlock;
  const uint8_t* bytes = row + WeightRowBytes(kType, kQuantBlock) * block;
  const float scale = LoadHalf(bytes);
  if constexpr (kType == WeightType::kQ8_0) return scale * static_cast<float>(static_cast<int8_t>(bytes[2 + i]));
  const int first = kType == WeightType::kQ4_1 ? 4 : 2;
  const uint8_t byte = bytes[first + i % (kQuantBlock / 2)];
  const int value = i < kQuantBlock / 2 ? byte & 0x0f : byte >> 4;
  if constexpr (kType == WeightType::kQ4_1) return fmaf(scale, static_cast<float>(value), LoadHalf(bytes + 2));
  return scale * static_cast<float>(value - 8);
}

// Calls body with the type as a compile-time constant.
template <typename Body>
cudaError_t WithWeightType(WeightType type, const Body& body) {
  switch (type) {
    case WeightType::kF32:
      return body.template operator()<WeightType::kF32>();
    case WeightType::kBf16:
      return body.template operator()<WeightType::kBf16>();
    case WeightType::kQ4_0:
      return body.template operator()<WeightType::kQ4_0>();
    case WeightType::kQ4_1:
      return body.template operator()<WeightType::kQ4_1>();
    case WeightType::kQ8_0:
      return body.template operator()<WeightType::kQ8_0>();
  }
  return cudaErrorInvalidValue;
}

}  // namespace farspan::kernels::cuda
