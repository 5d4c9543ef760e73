// SPDX-License-Identifier: Apache-2.0
// The instructions that the decode kernel is made of: barriers in shared memory, bulk copies of tensor tiles, matrix
// loads and products. Bodies are empty before sm_90, where the kernel is never launched.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace farspan::kernels::cuda {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define FARSPAN_SM90_BODY 1
#endif

__device__ inline uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

__device__ inline void InitBarrier(uint64_t* barrier, uint32_t arrivals) {
#ifdef FARSPAN_SM90_BODY
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(SharedAddress(barrier)), "r"(arrivals) : "memory");
#endif
}

// Makes initialised barriers known to the copy engine; before the block's threads meet.
__device__ inline void FenceBarrierInit() {
#ifdef FARSPAN_SM90_BODY
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

__device__ inline void Arrive(uint64_t* barrier) {
#ifdef FARSPAN_SM90_BODY
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(SharedAddress(barrier)) : "memory");
#endif
}

// Adds bytes that copies will bring before the current phase may complete; not an arrival.
__device__ inline void ExpectBytes(uint64_t* barrier, uint32_t bytes) {
#ifdef FARSPAN_SM90_BODY
  asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(SharedAddress(barrier)), "r"(bytes)
               : "memory");
#endif
}

// Returns once the phase of that parity has completed.
__device__ inline void WaitBarrier(uint64_t* barrier, uint32_t parity) {
#ifdef FARSPAN_SM90_BODY
  uint32_t done = 0;
  while (done == 0) {
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}"
        : "=r"(done)
        : "r"(SharedAddress(barrier)), "r"(parity)
        : "memory");
  }
#endif
}

__device__ inline void PrefetchTensorMap(const CUtensorMap* map) {
#ifdef FARSPAN_SM90_BODY
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
#endif
}

struct TileOrigin {
  int32_t coordinate[5];
};

__device__ inline void CopyTile(void* to, const CUtensorMap* map, const TileOrigin& origin, uint64_t* barrier) {
#ifdef FARSPAN_SM90_BODY
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%2, %3, %4, %5, %6}], [%7];" ::"r"(SharedAddress(to)),
      "l"(map), "r"(origin.coordinate[0]), "r"(origin.coordinate[1]), "r"(origin.coordinate[2]),
      "r"(origin.coordinate[3]), "r"(origin.coordinate[4]), "r"(SharedAddress(barrier))
      : "memory");
#endif
}

// Brings a tile nearer, without a sign when it has come.
__device__ inline void PrefetchTile(const CUtensorMap* map, const TileOrigin& origin) {
#ifdef FARSPAN_SM90_BODY
  asm volatile("cp.async.bulk.prefetch.tensor.5d.L2.global.tile [%0, {%1, %2, %3, %4, %5}];" ::"l"(map),
               "r"(origin.coordinate[0]), "r"(origin.coordinate[1]), "r"(origin.coordinate[2]),
               "r"(origin.coordinate[3]), "r"(origin.coordinate[4])
               : "memory");
#endif
}

// Waits for the `threads` threads that share barrier `id` of the block.
__device__ inline void SyncThreads(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// Adds to global memory; returns the old value.
__device__ inline uint32_t AddAcquireRelease(uint32_t* to, uint32_t value) {
  uint32_t old;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;" : "=r"(old) : "l"(to), "r"(value) : "memory");
  return old;
}

// Four 8 x 8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8.
__device__ inline void LoadMatrices(uint32_t address, uint32_t (&out)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(address)
               : "memory");
}

// Four times the same, in one statement so that the loads stay together: else each waits for the one before.
__device__ inline void LoadMatrices(const uint32_t (&address)[4], uint32_t (&out)[4][4]) {
  asm volatile(
      "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%16];\n"
      "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%4, %5, %6, %7}, [%17];\n"
      "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%8, %9, %10, %11}, [%18];\n"
      "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%12, %13, %14, %15}, [%19];"
      : "=r"(out[0][0]), "=r"(out[0][1]), "=r"(out[0][2]), "=r"(out[0][3]), "=r"(out[1][0]), "=r"(out[1][1]),
        "=r"(out[1][2]), "=r"(out[1][3]), "=r"(out[2][0]), "=r"(out[2][1]), "=r"(out[2][2]), "=r"(out[2][3]),
        "=r"(out[3][0]), "=r"(out[3][1]), "=r"(out[3][2]), "=r"(out[3][3])
      : "r"(address[0]), "r"(address[1]), "r"(address[2]), "r"(address[3])
      : "memory");
}

__device__ inline void LoadMatricesTransposed(const uint32_t (&address)[4], uint32_t (&out)[4][4]) {
  asm volatile(
      "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%16];\n"
      "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%4, %5, %6, %7}, [%17];\n"
      "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%8, %9, %10, %11}, [%18];\n"
      "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%12, %13, %14, %15}, [%19];"
      : "=r"(out[0][0]), "=r"(out[0][1]), "=r"(out[0][2]), "=r"(out[0][3]), "=r"(out[1][0]), "=r"(out[1][1]),
        "=r"(out[1][2]), "=r"(out[1][3]), "=r"(out[2][0]), "=r"(out[2][1]), "=r"(out[2][2]), "=r"(out[2][3]),
        "=r"(out[3][0]), "=r"(out[3][1]), "=r"(out[3][2]), "=r"(out[3][3])
      : "r"(address[0]), "r"(address[1]), "r"(address[2]), "r"(address[3])
      : "memory");
}

// An 8 x 8 matrix of 16-bit elements spread over the warp, transposed.
__device__ inline uint32_t TransposeMatrix(uint32_t in) {
  uint32_t out;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(in));
  return out;
}

// 2^x; 0 for minus infinity.
__device__ inline float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace farspan::kernels::cuda
