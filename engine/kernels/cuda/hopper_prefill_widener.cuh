// SPDX-License-Identifier: Apache-2.0
// The warps that widen raw tiles of Hopper's prefill attention. A tile is widened where it lies: each panel's raw rows
// fill its upper half, and from the first to the last are read before what they become is written over them.
#pragma once

#include "engine/kernels/args.h"
#include "engine/kernels/cuda/device.cuh"
#include "engine/kernels/cuda/hopper.cuh"
#include "engine/kernels/cuda/hopper_prefill_producer.cuh"

namespace farspan::kernels::cuda::hopper {

// Four e4m3, as two pairs of f16.
__device__ inline void WidenE4m3(uint32_t packed, uint32_t* low, uint32_t* high) {
  asm("{\n"
      ".reg .b16 low, high;\n"
      "mov.b32 {low, high}, %2;\n"
      "cvt.rn.f16x2.e4m3x2 %0, low;\n"
      "cvt.rn.f16x2.e4m3x2 %1, high;\n"
      "}"
      : "=r"(*low), "=r"(*high)
      : "r"(packed));
}

// Runs in two whole warps. Of two panels each takes one, keys' and values' tiles in turn; else one takes the keys' and
// the other the values'. A stage is full once all of its panels are widened.
template <int kHeadDim, KvElement kElement, int kWarp>
class PrefillWidener {
 public:
  using Shared = PrefillShared<kHeadDim, kElement>;

  __device__ explicit PrefillWidener(Shared* shared) : shared_(*shared), lane_(threadIdx.x % kWarpThreads) {}

  __device__ void Run() {
    for (;;) {
      bool is_tile = true;
      if constexpr (kTakesKeys) {
        const int stage = k_place_.stage;
        Wait(&shared_.k_raw[stage], k_place_.parity);
        if (shared_.ends[0]) return;
        is_tile = (shared_.notes[stage].flags & kEnd) == 0;
        if (is_tile) WidenPanel(SharedAddress(shared_.k[stage]) + kPanel * kPanelBytes);
        PassOn(&shared_.k_full[stage]);
        k_place_.Advance();
      }
      if constexpr (kTakesValues) {
        if (!is_tile) continue;
        const int stage = v_place_.stage;
        Wait(&shared_.v_raw[stage], v_place_.parity);
        if (!kTakesKeys && shared_.ends[1]) return;
        WidenPanel(SharedAddress(shared_.v[stage]) + kPanel * kPanelBytes);
        PassOn(&shared_.v_full[stage]);
        v_place_.Advance();
      }
    }
  }

 private:
  using Traits = ElementTraits<kElement>;
  static constexpr int kPanels = kHeadDim / kPanelColumns;
  static_assert(kPanels <= 2);
  static constexpr bool kTakesKeys = kPanels == 2 || kWarp == 0;
  static constexpr bool kTakesValues = kPanels == 2 || kWarp == 1;
  static constexpr uint32_t kPanel = kPanels == 2 ? kWarp : 0;
  static constexpr int kLoads = 4;  // of a lane, in flight

  __device__ void PassOn(uint64_t* full) const {
    FenceForAsync();
    __syncwarp();
    if (lane_ == 0) Arrive(full);
  }

  // A lane takes 16 columns of every eighth row. Each load's and each store's lanes meet every bank equally often. The
  // next rows are loaded before the last ones are stored, and all of a step's are loaded before any is stored.
  __device__ void WidenPanel(uint32_t panel) const {
    constexpr int kRowsPerLoad = kWarpThreads * 16 / Traits::kRowBytes, kSteps = kTileKeys / kRowsPerLoad / kLoads;
    const uint32_t from = panel + Traits::kOffset + lane_ * 16;
    const uint32_t to = panel + PanelOffset(lane_ / 4, lane_ % 4 * 2);
    uint32_t raw[2][kLoads][4];
    Load(from, raw[0]);
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      if (step + 1 < kSteps) Load(from + (step + 1) * kLoads * kWarpThreads * 16, raw[(step + 1) % 2]);
      __syncwarp();
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        const uint32_t(&packed)[4] = raw[step % 2][i];
        uint32_t wide[2][4];
#pragma unroll
        for (int j = 0; j < 4; ++j) WidenE4m3(packed[j], &wide[j / 2][j % 2 * 2], &wide[j / 2][j % 2 * 2 + 1]);
        const uint32_t offset = static_cast<uint32_t>((step * kLoads + i) * kRowsPerLoad) * kPanelRowBytes;
        StoreShared16(to + offset, wide[0]);
        StoreShared16((to ^ 16) + offset, wide[1]);
      }
    }
  }

  static __device__ void Load(uint32_t from, uint32_t (&raw)[kLoads][4]) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) LoadShared16(from + i * kWarpThreads * 16, raw[i]);
  }

  Shared& shared_;
  const uint32_t lane_;
  RingPlace<Shared::kKeyStages> k_place_;
  RingPlace<Shared::kValueStages> v_place_;
};

}  // namespace farspan::kernels::cuda::hopper
