// SPDX-License-Identifier: Apache-2.0
// Elements of the KV cache in the decode kernel's matrix products. Each says how what a warp loads of a 128-byte wide
// tile becomes the rows of a product, 16 channels a step: 8-bit elements are widened on the way, and take channels (and
// tokens) in the order in which that costs least.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace farspan::kernels::cuda::decode {

struct Bf16Element {
  static constexpr int kBytes = 2;

  __device__ static uint32_t FromBf16(uint32_t packed) { return packed; }
  __device__ static uint32_t Pack(float low, float high) {
    uint32_t packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
  }
  __device__ static float2 Unpack(uint32_t packed) {
    return make_float2(__uint_as_float(packed << 16), __uint_as_float(packed & 0xffff0000u));
  }
  // sum += a (16 x 16, rows) * b (16 x 8, columns)
  __device__ static void MultiplyAdd(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
};

struct F16Element {
  static constexpr int kBytes = 2;

  __device__ static uint32_t Pack(float low, float high) {
    uint32_t packed;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
  }
  __device__ static float2 Unpack(uint32_t packed) { return __half22float2(*reinterpret_cast<__half2*>(&packed)); }
  __device__ static uint32_t FromBf16(uint32_t packed) {
    const float2 values = Bf16Element::Unpack(packed);
    return Pack(values.x, values.y);
  }
  __device__ static void MultiplyAdd(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
};

// Multiplied as f16, which holds every value.
struct F8Element : F16Element {
  static constexpr int kBytes = 1;

  // Of the low 16 bits.
  __device__ static uint32_t Widen(uint32_t pair) {
    uint32_t wide;
    asm("{\n.reg .b16 low, high;\nmov.b32 {low, high}, %1;\ncvt.rn.f16x2.e4m3x2 %0, low;\n}" : "=r"(wide) : "r"(pair));
    return wide;
  }
};

template <typename Element>
struct Fragments {
  static constexpr bool kIsWide = Element::kBytes == 2;
  static constexpr int kSteps = kIsWide ? 1 : 2;  // that one load of four matrices holds

  // Channel, of the 16 of a step, of the first of two that lane l % 4 = `pair` holds of a column in its `half`.
  __device__ static int QueryChannel(int half, int pair) { return kIsWide ? half * 8 + pair * 2 : pair * 4 + half * 2; }
  // Channel of row lane / 4 = `row` of a product whose rows are channels, and how far row + 8 is from it.
  __device__ static int RowChannel(int row) { return kIsWide ? row : row * 2; }
  static constexpr int kRowDistance = kIsWide ? 8 : 1;

  // Loaded keys, rows being tokens.
  __device__ static void Keys(const uint32_t (&loaded)[4], int step, uint32_t (&rows)[4]) {
    if constexpr (kIsWide) {
      for (int i = 0; i < 4; ++i) rows[i] = loaded[i];
    } else {
      const uint32_t upper = step == 0 ? loaded[0] : loaded[2], lower = step == 0 ? loaded[1] : loaded[3];
      rows[0] = Element::Widen(upper);
      rows[1] = Element::Widen(lower);
      rows[2] = Element::Widen(upper >> 16);
      rows[3] = Element::Widen(lower >> 16);
    }
  }

  // Loaded values, rows being channels.
  __device__ static void Values(const uint32_t (&loaded)[4], int step, uint32_t (&rows)[4]) {
    if constexpr (kIsWide) {
      for (int i = 0; i < 4; ++i) rows[i] = loaded[i];
    } else {
      for (int i = 0; i < 2; ++i) {
        const uint32_t tokens = step == 0 ? loaded[2 * i] : loaded[2 * i + 1];
        rows[2 * i] = Element::Widen(__byte_perm(tokens, 0, 0x20));
        rows[2 * i + 1] = Element::Widen(__byte_perm(tokens, 0, 0x31));
      }
    }
  }
};

}  // namespace farspan::kernels::cuda::decode
