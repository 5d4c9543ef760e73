// SPDX-License-Identifier: Apache-2.0
// Smallest and largest values of eight neighbouring channels, in registers as they are stored.
#pragma once

#include "engine/kernels/cuda/vectors.cuh"

namespace farspan::kernels::cuda {

// Any NaN among a channel's values makes both of its extremes NaN.
template <typename Element>
struct Extremes8 {
  Values8 smallest, largest;
};

// As pairs of 16-bit floats. fp8 is widened to halves.
template <typename Pair>
struct PairExtremes8 {
  uint4 smallest, largest;
};
template <>
struct Extremes8<__nv_bfloat16> : PairExtremes8<__nv_bfloat162> {};
template <>
struct Extremes8<__half> : PairExtremes8<__half2> {};
template <>
struct Extremes8<__nv_fp8_e4m3> : PairExtremes8<__half2> {};

__device__ inline float MinOrNan(float a, float b) {
  float result;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
}

__device__ inline float MaxOrNan(float a, float b) {
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
}

template <typename Pair>
__device__ inline uint32_t MinOrNan(uint32_t a, uint32_t b) {
  const Pair result = __hmin2_nan(*reinterpret_cast<const Pair*>(&a), *reinterpret_cast<const Pair*>(&b));
  return *reinterpret_cast<const uint32_t*>(&result);
}

template <typename Pair>
__device__ inline uint32_t MaxOrNan(uint32_t a, uint32_t b) {
  const Pair result = __hmax2_nan(*reinterpret_cast<const Pair*>(&a), *reinterpret_cast<const Pair*>(&b));
  return *reinterpret_cast<const uint32_t*>(&result);
}

__device__ inline void Widen(const Extremes8<float>& by, Extremes8<float>* extremes) {
#pragma unroll
  for (int i = 0; i < kVectorValues; ++i) {
    extremes->smallest.at[i] = MinOrNan(extremes->smallest.at[i], by.smallest.at[i]);
    extremes->largest.at[i] = MaxOrNan(extremes->largest.at[i], by.largest.at[i]);
  }
}

template <typename Pair>
__device__ inline void Widen(const PairExtremes8<Pair>& by, PairExtremes8<Pair>* extremes) {
  uint4 &low = extremes->smallest, &high = extremes->largest;
  low = make_uint4(MinOrNan<Pair>(low.x, by.smallest.x), MinOrNan<Pair>(low.y, by.smallest.y),
                   MinOrNan<Pair>(low.z, by.smallest.z), MinOrNan<Pair>(low.w, by.smallest.w));
  high = make_uint4(MaxOrNan<Pair>(high.x, by.largest.x), MaxOrNan<Pair>(high.y, by.largest.y),
                    MaxOrNan<Pair>(high.z, by.largest.z), MaxOrNan<Pair>(high.w, by.largest.w));
}

// Eight stored values in the form that extremes are held in.
__device__ inline Values8 LoadExtreme(const float* from) { return Load8(from); }
__device__ inline uint4 LoadExtreme(const __nv_bfloat16* from) { return *reinterpret_cast<const uint4*>(from); }
__device__ inline uint4 LoadExtreme(const __half* from) { return *reinterpret_cast<const uint4*>(from); }
__device__ inline uint4 LoadExtreme(const __nv_fp8_e4m3* from) {
  return Fp8ToHalf(*reinterpret_cast<const uint2*>(from));
}

__device__ inline void StoreExtreme(const Values8& values, float* to) { Store8(to, values); }
__device__ inline void StoreExtreme(const uint4& values, __nv_bfloat16* to) { *reinterpret_cast<uint4*>(to) = values; }
__device__ inline void StoreExtreme(const uint4& values, __half* to) { *reinterpret_cast<uint4*>(to) = values; }
__device__ inline void StoreExtreme(const uint4& values, __nv_fp8_e4m3* to) { Store8(to, FromHalf(values)); }

template <typename Element>
__device__ inline Extremes8<Element> OneKey(const Element* key) {
  const auto values = LoadExtreme(key);
  Extremes8<Element> extremes;
  extremes.smallest = values, extremes.largest = values;
  return extremes;
}

// A pair of bounds: the largest values lie head_dim after the smallest.
template <typename Element>
__device__ inline Extremes8<Element> LoadBounds(const Element* bounds, int64_t head_dim) {
  Extremes8<Element> extremes;
  extremes.smallest = LoadExtreme(bounds), extremes.largest = LoadExtreme(bounds + head_dim);
  return extremes;
}

template <typename Element>
__device__ inline void StoreBounds(const Extremes8<Element>& extremes, int64_t head_dim, Element* bounds) {
  StoreExtreme(extremes.smallest, bounds);
  StoreExtreme(extremes.largest, bounds + head_dim);
}

// As floats.
__device__ inline Values8 Smallest(const Extremes8<float>& extremes) { return extremes.smallest; }
__device__ inline Values8 Largest(const Extremes8<float>& extremes) { return extremes.largest; }
__device__ inline Values8 Smallest(const PairExtremes8<__nv_bfloat162>& extremes) {
  return FromBf16(extremes.smallest);
}
__device__ inline Values8 Largest(const PairExtremes8<__nv_bfloat162>& extremes) { return FromBf16(extremes.largest); }
__device__ inline Values8 Smallest(const PairExtremes8<__half2>& extremes) { return FromHalf(extremes.smallest); }
__device__ inline Values8 Largest(const PairExtremes8<__half2>& extremes) { return FromHalf(extremes.largest); }

}  // namespace farspan::kernels::cuda
