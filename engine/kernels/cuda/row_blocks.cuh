// SPDX-License-Identifier: Apache-2.0
// The blocks that share one row of logits: a thread block cluster where the device has them, else one block. Each warp
// owns a contiguous piece of the row; sums over the row add the warps' sums in one order.
#pragma once

#include <cstdint>

#include "engine/kernels/cuda/device.cuh"

namespace farspan::kernels::cuda {

struct ClusterShape {
  static constexpr int kRanks = 8, kThreads = 256, kBlocksPerMultiprocessor = 3;
};
struct SingleBlockShape {
  static constexpr int kRanks = 1, kThreads = 1024, kBlocksPerMultiprocessor = 1;
};

inline constexpr int kPivots = 3;

// What a warp has found in its piece, and the sum of such.
struct Partial {
  double mass[kPivots];
  uint32_t count[kPivots];
  float least;
};

template <typename Shape>
struct RowExchange {
  static constexpr int kWarps = Shape::kThreads / kWarpThreads;
  static constexpr int kRowWarps = Shape::kRanks * kWarps;
  // Two of each: a block may still read one while the others fill the next.
  unsigned long long best[2][kRowWarps];
  Partial partials[2][kRowWarps];
};

__device__ inline double WarpSum(double value) {
  for (int offset = kWarpThreads / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(kWholeWarp, value, offset);
  return value;
}

__device__ inline uint32_t WarpSum(uint32_t value) { return __reduce_add_sync(kWholeWarp, value); }

__device__ inline unsigned long long WarpMax(unsigned long long value) {
  for (int offset = kWarpThreads / 2; offset > 0; offset /= 2) {
    const unsigned long long other = __shfl_xor_sync(kWholeWarp, value, offset);
    value = other > value ? other : value;
  }
  return value;
}

__device__ inline float WarpMin(float value) {
  for (int offset = kWarpThreads / 2; offset > 0; offset /= 2) {
    value = fminf(value, __shfl_xor_sync(kWholeWarp, value, offset));
  }
  return value;
}

// The sum of this lane's value and of all lower lanes'.
template <typename T>
__device__ T WarpScan(T value) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  for (int offset = 1; offset < kWarpThreads; offset *= 2) {
    const T lower = __shfl_up_sync(kWholeWarp, value, offset);
    if (lane >= offset) value += lower;
  }
  return value;
}

// The first lane whose value takes the sum from `before` on above `target`; kWarpThreads where none does. `last` is the
// last lane with a value above 0, kept where there is none.
struct LaneFound {
  int lane, last;
  double before;  // the sum before `lane`, or of everything
};
__device__ inline LaneFound FindLane(double value, double before, double target) {
  const double through = before + WarpScan(value);
  const unsigned positive = __ballot_sync(kWholeWarp, value > 0);
  const unsigned reached = __ballot_sync(kWholeWarp, value > 0 && through > target);
  const int lane = reached != 0 ? __ffs(static_cast<int>(reached)) - 1 : kWarpThreads;
  const double lower = __shfl_sync(kWholeWarp, through, lane > 0 ? lane - 1 : 0);
  return {.lane = lane,
          .last = positive != 0 ? kWarpThreads - 1 - __clz(static_cast<int>(positive)) : -1,
          .before = lane == 0 ? before : lower};
}

template <bool kMass>
__device__ inline Partial WarpSum(Partial partial) {
#pragma unroll
  for (int i = 0; i < kPivots; ++i) {
    if constexpr (kMass) partial.mass[i] = WarpSum(partial.mass[i]);
    partial.count[i] = WarpSum(partial.count[i]);
  }
  partial.least = WarpMin(partial.least);
  return partial;
}

// Every thread of every block of the row makes the same calls in the same order.
template <typename Shape>
class RowBlocks {
 public:
  using Exchange = RowExchange<Shape>;
  static constexpr int kWarps = Exchange::kWarps;
  static constexpr int kRowWarps = Exchange::kRowWarps;

  __device__ explicit RowBlocks(Exchange* exchange)
      : rank_(static_cast<int>(blockIdx.x) % Shape::kRanks),
        warp_(static_cast<int>(threadIdx.x) / kWarpThreads),
        lane_(static_cast<int>(threadIdx.x) % kWarpThreads),
        exchange_(exchange) {}

  __device__ int rank() const { return rank_; }
  __device__ int warp() const { return warp_; }
  __device__ int lane() const { return lane_; }
  __device__ int row_warp() const { return rank_ * kWarps + warp_; }

  // A block may be written to by others only once it has started: every block says so, then waits for all.
  __device__ void SayStarted() const {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    if constexpr (Shape::kRanks > 1) asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory");
#endif
  }
  __device__ void AwaitStarted() const { Await(); }

  // Returns when all threads of the row are here; what they wrote to shared memory, their own or another's, is seen.
  __device__ void Meet() const {
    if constexpr (Shape::kRanks == 1) {
      __syncthreads();
    } else {
      Arrive();
      Await();
    }
  }

  // Where `mine`, in this block's shared memory, lies in that of block `rank`.
  template <typename T>
  __device__ T* On(int rank, T* mine) const {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    if constexpr (Shape::kRanks > 1) {
      uint64_t theirs = 0;
      asm("mapa.u64 %0, %1, %2;" : "=l"(theirs) : "l"(mine), "r"(rank));
      return reinterpret_cast<T*>(theirs);
    }
#endif
    return mine;
  }

  // The warps' partials in the order of their pieces, [kRowWarps]; read them before the call after next.
  __device__ const Partial* Share(const Partial& of_warp) {
    Partial* const place = &exchange_->partials[partial_parity_][row_warp()];
    if (lane_ < Shape::kRanks) *On(lane_, place) = of_warp;
    Meet();
    const Partial* const all = exchange_->partials[partial_parity_];
    partial_parity_ ^= 1;
    return all;
  }

  template <bool kMass>
  __device__ Partial Total(const Partial& of_warp) {
    const Partial* const all = Share(of_warp);
    Partial total = all[lane_];
    for (int other = lane_ + kWarpThreads; other < kRowWarps; other += kWarpThreads) {
#pragma unroll
      for (int i = 0; i < kPivots; ++i) {
        if constexpr (kMass) total.mass[i] += all[other].mass[i];
        total.count[i] += all[other].count[i];
      }
      total.least = fminf(total.least, all[other].least);
    }
    return WarpSum<kMass>(total);
  }

  __device__ unsigned long long Best(unsigned long long of_warp) {
    unsigned long long* const place = &exchange_->best[best_parity_][row_warp()];
    if (lane_ < Shape::kRanks) *On(lane_, place) = of_warp;
    Meet();
    const unsigned long long* const all = exchange_->best[best_parity_];
    best_parity_ ^= 1;
    unsigned long long best = all[lane_];
    for (int other = lane_ + kWarpThreads; other < kRowWarps; other += kWarpThreads) {
      best = all[other] > best ? all[other] : best;
    }
    return WarpMax(best);
  }

 private:
  __device__ static void Arrive() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    if constexpr (Shape::kRanks > 1) asm volatile("barrier.cluster.arrive.release;" ::: "memory");
#endif
  }
  __device__ static void Await() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    if constexpr (Shape::kRanks > 1) asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
#endif
  }

  const int rank_, warp_, lane_;
  Exchange* const exchange_;
  int partial_parity_ = 0, best_parity_ = 0;
};

}  // namespace farspan::kernels::cuda
