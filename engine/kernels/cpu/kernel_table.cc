// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/cpu/kernel_table.h"

#if defined(FARSPAN_HAVE_X86_KERNELS)
#include <cpuid.h>
#endif

namespace farspan::kernels {

#if defined(FARSPAN_HAVE_X86_KERNELS)

namespace {

constexpr unsigned kYmmState = 0x6;   // with the xmm registers
constexpr unsigned kZmmState = 0xe6;  // with the mask registers

// The register files that the operating system keeps, as bits of XCR0; 0 where AVX is missing too.
unsigned KeptState() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0) return 0;
  constexpr unsigned kNeeded = bit_FMA | bit_OSXSAVE | bit_AVX | bit_F16C;
  if ((ecx & kNeeded) != kNeeded) return 0;
  unsigned state_low = 0, state_high = 0;
  __asm__("xgetbv" : "=a"(state_low), "=d"(state_high) : "c"(0));
  return state_low;
}

}  // namespace

bool CpuHasAvx2() {
  if ((KeptState() & kYmmState) != kYmmState) return false;
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && (ebx & bit_AVX2) != 0;
}

bool CpuHasAvx512() {
  if (!CpuHasAvx2() || (KeptState() & kZmmState) != kZmmState) return false;
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
  constexpr unsigned kNeeded = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
  return (ebx & kNeeded) == kNeeded && (ecx & bit_AVX512VNNI) != 0;
}

#else

bool CpuHasAvx2() { return false; }
bool CpuHasAvx512() { return false; }
const KernelTable& Avx2Kernels() { return PortableKernels(); }
const KernelTable& Avx512Kernels() { return PortableKernels(); }

#endif

}  // namespace farspan::kernels
