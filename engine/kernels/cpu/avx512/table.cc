// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/cpu/avx512/kernels.h"

namespace farspan::kernels {

const KernelTable& Avx512Kernels() {
  static const KernelTable table = [] {
    KernelTable avx512 = Avx2Kernels();
    avx512.name = "avx512";
    avx512.pack_rows = avx512::kPackRows;
    avx512.linear = avx512::kLinear;
    avx512.decode_partials = avx512::kDecodePartials;
    avx512.prefill_attention = avx512::kPrefillAttention;
    return avx512;
  }();
  return table;
}

}  // namespace farspan::kernels
