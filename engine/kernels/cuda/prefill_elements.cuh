// SPDX-License-Identifier: Apache-2.0
// Elements of the KV cache in the portable prefill kernel's matrix products: how four loaded 8x8 matrices of 16 bits
// become fragments. 8-bit elements are widened on the way, and take channels in the order in which that costs least.
#pragma once

#include <cstdint>

#include "engine/kernels/cuda/matrix_fragments.cuh"

namespace farspan::kernels::cuda {

// Keys of 8 bits come 32 channels a load. Lane l % 4 = t then holds, of 16 channels, the four from 4t on: they stand
// for channels 2t, 2t + 1, 2t + 8 and 2t + 9 of the product, and queries are stored in that order.
template <typename Element>
struct Fragments {
  static constexpr bool kIsWide = Element::kBytes == 2;
  static constexpr int kSteps = kIsWide ? 1 : 2;  // of 16 channels that one load brings

  // Which pair of a row of queries the pair of channels (2i, 2i + 1) is stored as.
  __device__ static int QueryPair(int i) { return kIsWide ? i : (i & ~7) | (i & 1) << 2 | (i >> 1 & 3); }

  // Of 16 tokens: the fragment of the first eight, then that of the others.
  __device__ static void Keys(const uint32_t (&loaded)[4], int part, uint32_t (&fragment)[4]) {
    if constexpr (kIsWide) {
#pragma unroll
      for (int i = 0; i < 4; ++i) fragment[i] = loaded[i];
    } else {
      fragment[0] = Element::WidenLow(loaded[part]);
      fragment[1] = Element::WidenHigh(loaded[part]);
      fragment[2] = Element::WidenLow(loaded[2 + part]);
      fragment[3] = Element::WidenHigh(loaded[2 + part]);
    }
  }

  // Of 16 channels: the fragment of the first eight, then that of the others; of 8 bits, the even channels, then the
  // odd ones.
  __device__ static void Values(const uint32_t (&loaded)[4], int part, uint32_t (&fragment)[4]) {
    if constexpr (kIsWide) {
#pragma unroll
      for (int i = 0; i < 4; ++i) fragment[i] = loaded[i];
    } else {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint32_t channels = __byte_perm(loaded[2 * part + i], 0, 0x3120);  // two tokens of each
        fragment[i] = Element::WidenLow(channels);
        fragment[2 + i] = Element::WidenHigh(channels);
      }
    }
  }

  // Of 16 channels of a row of results a lane holds two of the first eight columns, then two of the others: which of
  // these four is the i-th channel that it holds, and where its pair i of neighbouring channels begins.
  __device__ static constexpr int ValueIndex(int i) { return kIsWide ? i : (i & 1) << 1 | i >> 1; }
  __device__ static int ValueChannel(int lane, int i) { return kIsWide ? 8 * i + 2 * lane : 4 * lane + 2 * i; }
};

}  // namespace farspan::kernels::cuda
