// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/cpu/kernel_table.h"

#if defined(FARSPAN_HAVE_AVX2_KERNELS)
#include <cpuid.h>
#endif

namespace farspan::kernels {

#if defined(FARSPAN_HAVE_AVX2_KERNELS)

bool CpuHasAvx2() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0) return false;
  constexpr unsigned kNeeded = bit_FMA | bit_OSXSAVE | bit_AVX | bit_F16C;
  if ((ecx & kNeeded) != kNeeded) return false;
  unsigned state_low = 0, state_high = 0;
  __asm__("xgetbv" : "=a"(state_low), "=d"(state_high) : "c"(0));
  constexpr unsigned kXmmAndYmmState = 0x6;
  if ((state_low & kXmmAndYmmState) != kXmmAndYmmState) return false;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && (ebx & bit_AVX2) != 0;
}

#else

bool CpuHasAvx2() { return false; }
const KernelTable& Avx2Kernels() { return PortableKernels(); }

#endif

}  // namespace farspan::kernels
