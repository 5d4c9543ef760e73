// SPDX-License-Identifier: Apache-2.0
// Eight neighbouring values at a time, as float32 in registers and as stored: the unit in which elementwise kernels and
// those of selection move memory, 16 bytes an access where the element has two bytes. Conversions give the CPU's bits.
#pragma once

#include <cuda_fp8.h>

#include "engine/kernels/cuda/device.cuh"

namespace farspan::kernels::cuda {

inline constexpr int kVectorValues = 8;

struct Values8 {
  float at[kVectorValues];
};

// The pointers below are aligned to the eight values, or to 16 bytes for float32.
__device__ inline Values8 Load8(const float* from) {
  const float4 low = reinterpret_cast<const float4*>(from)[0], high = reinterpret_cast<const float4*>(from)[1];
  return {{low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w}};
}

__device__ inline Values8 FromBf16(uint4 packed) {
  const uint32_t words[4] = {packed.x, packed.y, packed.z, packed.w};
  Values8 values;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    values.at[2 * i] = __uint_as_float(words[i] << 16);
    values.at[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
  return values;
}

__device__ inline Values8 FromHalf(uint4 packed) {
  const uint32_t words[4] = {packed.x, packed.y, packed.z, packed.w};
  Values8 values;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&words[i]));
    values.at[2 * i] = pair.x;
    values.at[2 * i + 1] = pair.y;
  }
  return values;
}

// Of two values each, as halves, which hold them exactly.
__device__ inline uint4 Fp8ToHalf(uint2 packed) {
  const uint32_t words[2] = {packed.x, packed.y};
  uint32_t halves[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const auto pair = static_cast<__nv_fp8x2_storage_t>(words[i / 2] >> (i % 2 * 16));
    const __half2_raw raw = __nv_cvt_fp8x2_to_halfraw2(pair, __NV_E4M3);
    halves[i] = raw.x | static_cast<uint32_t>(raw.y) << 16;
  }
  return make_uint4(halves[0], halves[1], halves[2], halves[3]);
}

__device__ inline Values8 Load8(const __nv_bfloat16* from) { return FromBf16(*reinterpret_cast<const uint4*>(from)); }
__device__ inline Values8 Load8(const __half* from) { return FromHalf(*reinterpret_cast<const uint4*>(from)); }
__device__ inline Values8 Load8(const __nv_fp8_e4m3* from) {
  return FromHalf(Fp8ToHalf(*reinterpret_cast<const uint2*>(from)));
}

__device__ inline void Store8(float* to, const Values8& values) {
  const float* v = values.at;
  reinterpret_cast<float4*>(to)[0] = make_float4(v[0], v[1], v[2], v[3]);
  reinterpret_cast<float4*>(to)[1] = make_float4(v[4], v[5], v[6], v[7]);
}

// Rounds to nearest even.
__device__ inline void Store8(__nv_bfloat16* to, const Values8& values) {
  uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(values.at[2 * i], values.at[2 * i + 1]);
    words[i] = *reinterpret_cast<const uint32_t*>(&pair);
  }
  *reinterpret_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
}

// Rounds to nearest even, to infinity beyond the largest.
__device__ inline void Store8(__half* to, const Values8& values) {
  uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const __half2 pair = __floats2half2_rn(values.at[2 * i], values.at[2 * i + 1]);
    words[i] = *reinterpret_cast<const uint32_t*>(&pair);
  }
  *reinterpret_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
}

// Rounds to nearest even, to 448 beyond the largest.
__device__ inline void Store8(__nv_fp8_e4m3* to, const Values8& values) {
  uint32_t words[2] = {};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = make_float2(values.at[2 * i], values.at[2 * i + 1]);
    const auto rounded = static_cast<uint32_t>(__nv_cvt_float2_to_fp8x2(pair, __NV_SATFINITE, __NV_E4M3));
    words[i / 2] |= rounded << (i % 2 * 16);
  }
  *reinterpret_cast<uint2*>(to) = make_uint2(words[0], words[1]);
}

// Calls body with the element as a type.
template <typename Body>
cudaError_t WithActivation(Activation activation, const Body& body) {
  switch (activation) {
    case Activation::kF32:
      return body.template operator()<float>();
    case Activation::kBf16:
      return body.template operator()<__nv_bfloat16>();
  }
  return cudaErrorInvalidValue;
}

template <typename Body>
cudaError_t WithKvElement(KvElement element, const Body& body) {
  switch (element) {
    case KvElement::kF32:
      return body.template operator()<float>();
    case KvElement::kBf16:
      return body.template operator()<__nv_bfloat16>();
    case KvElement::kF16:
      return body.template operator()<__half>();
    case KvElement::kF8E4M3:
      return body.template operator()<__nv_fp8_e4m3>();
  }
  return cudaErrorInvalidValue;
}

}  // namespace farspan::kernels::cuda
