// SPDX-License-Identifier: Apache-2.0
// Warp-level matrix products of sm_80 and later: asynchronous copies into swizzled shared memory, fragments from it,
// and products of 16-bit elements with float32 sums. Fragments are those of mma.m16n8k16: lane l holds rows l / 4 and
// l / 4 + 8 and, of every eight columns, 2 (l % 4) and the next.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

namespace farspan::kernels::cuda {

__device__ inline uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Starts copying 16 bytes, both sides 16-byte aligned; zeros where not `valid`, with `global` unread.
__device__ inline void CopyAsync16(uint32_t shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared), "l"(global) : "memory");
}
__device__ inline void CopyAsync16(uint32_t shared, const void* global, bool valid) {
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(bytes) : "memory");
}

// The same where `starts`, without a branch.
__device__ inline void CopyAsync16If(bool starts, uint32_t shared, const void* global) {
  asm volatile(
      "{\n.reg .pred starts;\nsetp.ne.s32 starts, %0, 0;\n@starts cp.async.cg.shared.global [%1], [%2], 16;\n}" ::"r"(
          static_cast<int>(starts)),
      "r"(shared), "l"(global)
      : "memory");
}

__device__ inline void CommitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Returns when all but this thread's last `kPending` groups of copies have landed.
template <int kPending>
__device__ inline void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Four 8x8 matrices of 16-bit elements; lane l names row l % 8 of matrix l / 8.
__device__ inline void LoadMatrices(uint32_t shared, uint32_t (&fragment)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
               : "r"(shared)
               : "memory");
}

__device__ inline void LoadMatricesTransposed(uint32_t shared, uint32_t (&fragment)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
               : "r"(shared)
               : "memory");
}

// Elements of the KV cache, multiplied as 16-bit ones.
struct Bf16Element {
  static constexpr int kBytes = 2;

  // sums += a b
  __device__ static void MultiplyAdd(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }

  // `low` in the low half; both rounded to nearest even.
  __device__ static uint32_t Pack(float low, float high) {
    uint32_t packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
  }
};

struct F16Element {
  static constexpr int kBytes = 2;

  __device__ static void MultiplyAdd(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }

  __device__ static uint32_t Pack(float low, float high) {
    uint32_t packed;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
  }
};

// e4m3, multiplied as f16, which holds every value.
struct F8Element : F16Element {
  static constexpr int kBytes = 1;

  // The low, or the high, two of four.
  __device__ static uint32_t WidenLow(uint32_t four) { return Widen(four, 0x1404); }
  __device__ static uint32_t WidenHigh(uint32_t four) { return Widen(four, 0x3424); }

 private:
  __device__ static uint32_t Widen(uint32_t four, [[maybe_unused]] uint32_t to_high_bytes) {
    uint32_t wide;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    asm("{\n.reg .b16 low, high;\nmov.b32 {low, high}, %1;\ncvt.rn.f16x2.e4m3x2 %0, low;\n}"
        : "=r"(wide)
        : "r"(to_high_bytes == 0x1404 ? four : four >> 16));
#else
    // Exponents and mantissas shifted to where f16 has them are 256 times too small; the NaN needs its exponent.
    const uint32_t bytes = __byte_perm(four, 0, to_high_bytes);
    const uint32_t magnitude = (bytes & 0x7f007f00u) >> 1, nan = (magnitude + 0x00800080u) & 0x40004000u;
    const uint32_t small = magnitude | (bytes & 0x80008000u);
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(wide) : "r"(small), "r"(0x5c005c00u));
    wide |= nan | (nan - (nan >> 4));
#endif
    return wide;
  }
};

// Where 16-byte chunk `chunk` of a row lies in a tile of `kChunks` chunks a row, such that eight rows of one chunk, and
// one row's chunks, fall into different banks: chunks are permuted within a row where a row spans whole sets of banks,
// else rows are padded by a chunk.
template <int kChunks>
struct SharedTile {
  static constexpr bool kSwizzled = kChunks % 8 == 0;
  static constexpr int kRowBytes = (kSwizzled ? kChunks : kChunks | 1) * 16;

  __device__ static int Offset(int row, int chunk) {
    return row * kRowBytes + (kSwizzled ? chunk ^ (row & 7) : chunk) * 16;
  }

  // Offset(row + i * kStride, chunk) - Offset(row, chunk) for a stride of whole sets of eight rows, or unpermuted rows.
  template <int kStride>
  __device__ static constexpr int RowOffset(int i) {
    static_assert(!kSwizzled || kStride % 8 == 0);
    return i * kStride * kRowBytes;
  }

  // Offset(row, chunk + kFirst) with the result of Offset(row, chunk), for chunk < 2 and even kFirst.
  template <int kFirst>
  __device__ static uint32_t Advance(uint32_t address) {
    if constexpr (!kSwizzled) return address + kFirst * 16;
    return (address ^ ((kFirst & 7) * 16)) + (kFirst & ~7) * 16;
  }
};

__device__ inline float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace farspan::kernels::cuda
