// SPDX-License-Identifier: Apache-2.0
// Instructions of Hopper (sm_90a) under readable names: barriers in shared memory, bulk tensor copies, asynchronous
// matrix products of a warpgroup (four warps, the first a multiple of four). Device functions are called only where
// FARSPAN_HOPPER is 1. Shared memory is named by its 32-bit address in the block's window.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define FARSPAN_HOPPER 1
#else
#define FARSPAN_HOPPER 0
#endif

namespace farspan::kernels::cuda::hopper {

__device__ inline uint32_t SharedAddress(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// --- Barriers. A barrier's phases alternate in parity, the first being 0; a wait for the parity before the first
// returns at once.

__device__ inline void InitBarrier(uint64_t* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(SharedAddress(barrier)), "r"(arrivals) : "memory");
}

// After the barriers are initialised, before any other thread or the copy engine uses them.
__device__ inline void FenceBarrierInit() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

__device__ inline void Arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(SharedAddress(barrier)) : "memory");
}

// Arrives, and lets the phase end only once `bytes` more have been copied.
__device__ inline void ArriveExpecting(uint64_t* barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(SharedAddress(barrier)), "r"(bytes)
               : "memory");
}

__device__ inline bool TryWait(uint64_t* barrier, uint32_t parity) {
  uint32_t done;
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
      "selp.u32 %0, 1, 0, p;\n"
      "}"
      : "=r"(done)
      : "r"(SharedAddress(barrier)), "r"(parity)
      : "memory");
  return done != 0;
}

// Returns when the phase of this parity has ended. With FARSPAN_BOUNDED_WAITS defined, a wait of some seconds traps.
__device__ inline void Wait(uint64_t* barrier, uint32_t parity) {
#ifdef FARSPAN_BOUNDED_WAITS
  const int64_t begin = clock64();
  while (!TryWait(barrier, parity)) {
    if (clock64() - begin > int64_t{3000000000}) __trap();
  }
#else
  while (!TryWait(barrier, parity)) {
  }
#endif
}

// Barrier `id` (1 to 15) of `threads` threads: a sync waits for the others' arrivals, an arrival does not.
__device__ inline void SyncNamed(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ inline void ArriveNamed(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// --- Registers of a thread, given up and taken by all warps of a warpgroup; multiples of 8.

template <int kRegisters>
__device__ inline void ReleaseRegistersTo() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ inline void TakeRegistersTo() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// --- Copies into shared memory.

__device__ inline void PrefetchTensorMap(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// Copies the map's box whose first element is (column, row) and counts its bytes on the barrier. `map` is a
// __grid_constant__ parameter.
__device__ inline void CopyBox(const CUtensorMap* map, int column, int row, uint32_t shared, uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
          shared),
      "l"(map), "r"(column), "r"(row), "r"(SharedAddress(barrier))
      : "memory");
}

// Copies 16 bytes, or writes zeros. Not waited for by a barrier but by WaitForCopies() of the same thread.
__device__ inline void CopyOrZero16(uint32_t shared, const void* global, bool copy) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(copy ? 16 : 0)
               : "memory");
}
__device__ inline void WaitForCopies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

__device__ inline void LoadShared16(uint32_t shared, uint32_t (&words)[4]) {
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(shared)
               : "memory");
}
__device__ inline void StoreShared16(uint32_t shared, const uint32_t (&words)[4]) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(shared), "r"(words[0]), "r"(words[1]), "r"(words[2]),
               "r"(words[3])
               : "memory");
}

// Shared memory that this thread has written becomes visible to matrix products and bulk copies that are ordered after
// the fence.
__device__ inline void FenceForAsync() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// --- Matrix products of 16-bit floats. Operands in shared memory are panels of 64 columns: rows of 128 bytes, of whose
// eight 16-byte pieces piece p of row r lies at p ^ (r % 8), as CopyBox leaves them under the 128-byte swizzle. A panel
// begins at a multiple of 1024 bytes.

enum class Operand { kBf16, kF16 };

inline constexpr uint32_t kPanelColumns = 64;
inline constexpr uint32_t kPanelRowBytes = 128;

// Byte offset in a panel of 16-byte piece `piece` of row `row`.
__device__ inline uint32_t PanelOffset(uint32_t row, uint32_t piece) {
  return row * kPanelRowBytes + ((piece ^ (row % 8)) << 4);
}

// An operand that begins at `address`. Columns along the sum: `panel_stride` is unused. Rows along the sum (the operand
// is read transposed): bytes from one panel to the next.
__device__ inline uint64_t PanelDescriptor(uint32_t address, uint32_t panel_stride) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kEightRows = uint64_t{8 * kPanelRowBytes >> 4} << 32;
  return kSwizzle128 | kEightRows | static_cast<uint64_t>(panel_stride >> 4) << 16 | (address >> 4 & 0x3fff);
}

// Every register operand is written before, and not touched until the wait after.
__device__ inline void FenceProducts() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void CommitProducts() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Returns when all but the last kPending committed groups are done. Then HoldRegisters() of what they wrote.
template <int kPending>
__device__ inline void WaitForProducts() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Keeps the compiler from moving uses of the registers across this point.
template <int kSize>
__device__ inline void HoldRegisters(float (&values)[kSize]) {
#pragma unroll
  for (int i = 0; i < kSize; ++i) asm volatile("" : "+f"(values[i])::"memory");
}

// A warpgroup's sums of 64 x kColumns: thread t holds, of rows 16 * (t / 32) + t % 32 / 4 + {0, 8} and of each block b
// of eight columns, the columns 8 b + t % 4 * 2 + {0, 1} at [4 b + {0, 1}] (row + 0) and [4 b + {2, 3}] (row + 8).
// A in registers: the same, for blocks {0, 1} of a step of 16: {row, block 0}, {row + 8, 0}, {row, 1}, {row + 8, 1}.

// sum (+)= a bᵀ over 16 columns, a and b 64 and 128 rows in shared memory.
#define FARSPAN_MULTIPLY_SHARED(TYPE)                                                                            \
  asm volatile(                                                                                                  \
      "{\n"                                                                                                      \
      ".reg .pred p;\n"                                                                                          \
      "setp.ne.b32 p, %66, 0;\n"                                                                                 \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." TYPE "." TYPE                                               \
      " "                                                                                                        \
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                  \
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "                         \
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                         \
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "                        \
      "%64, %65, p, 1, 1, 0, 0;\n"                                                                               \
      "}"                                                                                                        \
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3]), "+f"(sum[4]), "+f"(sum[5]), "+f"(sum[6]),        \
        "+f"(sum[7]), "+f"(sum[8]), "+f"(sum[9]), "+f"(sum[10]), "+f"(sum[11]), "+f"(sum[12]), "+f"(sum[13]),    \
        "+f"(sum[14]), "+f"(sum[15]), "+f"(sum[16]), "+f"(sum[17]), "+f"(sum[18]), "+f"(sum[19]), "+f"(sum[20]), \
        "+f"(sum[21]), "+f"(sum[22]), "+f"(sum[23]), "+f"(sum[24]), "+f"(sum[25]), "+f"(sum[26]), "+f"(sum[27]), \
        "+f"(sum[28]), "+f"(sum[29]), "+f"(sum[30]), "+f"(sum[31]), "+f"(sum[32]), "+f"(sum[33]), "+f"(sum[34]), \
        "+f"(sum[35]), "+f"(sum[36]), "+f"(sum[37]), "+f"(sum[38]), "+f"(sum[39]), "+f"(sum[40]), "+f"(sum[41]), \
        "+f"(sum[42]), "+f"(sum[43]), "+f"(sum[44]), "+f"(sum[45]), "+f"(sum[46]), "+f"(sum[47]), "+f"(sum[48]), \
        "+f"(sum[49]), "+f"(sum[50]), "+f"(sum[51]), "+f"(sum[52]), "+f"(sum[53]), "+f"(sum[54]), "+f"(sum[55]), \
        "+f"(sum[56]), "+f"(sum[57]), "+f"(sum[58]), "+f"(sum[59]), "+f"(sum[60]), "+f"(sum[61]), "+f"(sum[62]), \
        "+f"(sum[63])                                                                                            \
      : "l"(a), "l"(b), "r"(static_cast<int>(add)))
template <Operand kOperand>
__device__ inline void MultiplyRows(float (&sum)[64], uint64_t a, uint64_t b, bool add) {
  if constexpr (kOperand == Operand::kBf16) {
    FARSPAN_MULTIPLY_SHARED("bf16");
  } else {
    FARSPAN_MULTIPLY_SHARED("f16");
  }
}
#undef FARSPAN_MULTIPLY_SHARED

// The product of both below.
#define FARSPAN_MULTIPLY(TYPE)                                                                                   \
  asm volatile(                                                                                                  \
      "{\n"                                                                                                      \
      ".reg .pred p;\n"                                                                                          \
      "setp.ne.b32 p, %69, 0;\n"                                                                                 \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." TYPE "." TYPE                                               \
      " "                                                                                                        \
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                  \
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "                         \
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                         \
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "                        \
      "{%64, %65, %66, %67}, %68, p, 1, 1, %70;\n"                                                               \
      "}"                                                                                                        \
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3]), "+f"(sum[4]), "+f"(sum[5]), "+f"(sum[6]),        \
        "+f"(sum[7]), "+f"(sum[8]), "+f"(sum[9]), "+f"(sum[10]), "+f"(sum[11]), "+f"(sum[12]), "+f"(sum[13]),    \
        "+f"(sum[14]), "+f"(sum[15]), "+f"(sum[16]), "+f"(sum[17]), "+f"(sum[18]), "+f"(sum[19]), "+f"(sum[20]), \
        "+f"(sum[21]), "+f"(sum[22]), "+f"(sum[23]), "+f"(sum[24]), "+f"(sum[25]), "+f"(sum[26]), "+f"(sum[27]), \
        "+f"(sum[28]), "+f"(sum[29]), "+f"(sum[30]), "+f"(sum[31]), "+f"(sum[32]), "+f"(sum[33]), "+f"(sum[34]), \
        "+f"(sum[35]), "+f"(sum[36]), "+f"(sum[37]), "+f"(sum[38]), "+f"(sum[39]), "+f"(sum[40]), "+f"(sum[41]), \
        "+f"(sum[42]), "+f"(sum[43]), "+f"(sum[44]), "+f"(sum[45]), "+f"(sum[46]), "+f"(sum[47]), "+f"(sum[48]), \
        "+f"(sum[49]), "+f"(sum[50]), "+f"(sum[51]), "+f"(sum[52]), "+f"(sum[53]), "+f"(sum[54]), "+f"(sum[55]), \
        "+f"(sum[56]), "+f"(sum[57]), "+f"(sum[58]), "+f"(sum[59]), "+f"(sum[60]), "+f"(sum[61]), "+f"(sum[62]), \
        "+f"(sum[63])                                                                                            \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)), "n"(kByColumns))
template <Operand kOperand, int kByColumns>
__device__ inline void Multiply(float (&sum)[64], const uint32_t* a, uint64_t b, bool add) {
  if constexpr (kOperand == Operand::kBf16) {
    FARSPAN_MULTIPLY("bf16");
  } else {
    FARSPAN_MULTIPLY("f16");
  }
}
#undef FARSPAN_MULTIPLY

// The same with `a` in registers.
template <Operand kOperand>
__device__ inline void MultiplyRows(float (&sum)[64], const uint32_t* a, uint64_t b, bool add) {
  Multiply<kOperand, 0>(sum, a, b, add);
}

// sum (+)= a b over 16 rows of b, a in registers, b 128 columns in shared memory.
template <Operand kOperand>
__device__ inline void MultiplyColumns(float (&sum)[64], const uint32_t* a, uint64_t b, bool add) {
  Multiply<kOperand, 1>(sum, a, b, add);
}

// The same for 64 columns.
#define FARSPAN_MULTIPLY_NARROW(TYPE)                                                                            \
  asm volatile(                                                                                                  \
      "{\n"                                                                                                      \
      ".reg .pred p;\n"                                                                                          \
      "setp.ne.b32 p, %37, 0;\n"                                                                                 \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." TYPE "." TYPE                                                \
      " "                                                                                                        \
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                  \
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "                        \
      "{%32, %33, %34, %35}, %36, p, 1, 1, 1;\n"                                                                 \
      "}"                                                                                                        \
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3]), "+f"(sum[4]), "+f"(sum[5]), "+f"(sum[6]),        \
        "+f"(sum[7]), "+f"(sum[8]), "+f"(sum[9]), "+f"(sum[10]), "+f"(sum[11]), "+f"(sum[12]), "+f"(sum[13]),    \
        "+f"(sum[14]), "+f"(sum[15]), "+f"(sum[16]), "+f"(sum[17]), "+f"(sum[18]), "+f"(sum[19]), "+f"(sum[20]), \
        "+f"(sum[21]), "+f"(sum[22]), "+f"(sum[23]), "+f"(sum[24]), "+f"(sum[25]), "+f"(sum[26]), "+f"(sum[27]), \
        "+f"(sum[28]), "+f"(sum[29]), "+f"(sum[30]), "+f"(sum[31])                                               \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)))
template <Operand kOperand>
__device__ inline void MultiplyColumns(float (&sum)[32], const uint32_t* a, uint64_t b, bool add) {
  if constexpr (kOperand == Operand::kBf16) {
    FARSPAN_MULTIPLY_NARROW("bf16");
  } else {
    FARSPAN_MULTIPLY_NARROW("f16");
  }
}
#undef FARSPAN_MULTIPLY_NARROW

}  // namespace farspan::kernels::cuda::hopper
