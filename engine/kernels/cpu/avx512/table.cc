// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/cpu/avx512/kernels.h"

namespace farspan::kernels {

const KernelTable& Avx512Kernels() {
  static const KernelTable table = [] {
    KernelTable avx512 = Avx2Kernels();
    avx512.name = "avx512";
    avx512.decode_partials = avx512::kDecodePartials;
    return avx512;
  }();
  return table;
}

}  // namespace farspan::kernels
