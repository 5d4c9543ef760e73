// SPDX-License-Identifier: Apache-2.0
// The driver's encoder of tensor maps, which the bulk copies of Hopper's kernels read.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

namespace farspan::kernels::cuda {

using EncodeTiled = decltype(&cuTensorMapEncodeTiled);

// From the driver that the runtime has loaded, so that nothing links with it; null where it has none. No error is left
// for the next launch to report.
inline EncodeTiled FindEncodeTiled() {
  static const EncodeTiled found = []() -> EncodeTiled {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
    constexpr unsigned kVersion = 12000;
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, kVersion, cudaEnableDefault, &result) !=
        cudaSuccess) {
      cudaGetLastError();
      return nullptr;
    }
    return result == cudaDriverEntryPointSuccess ? reinterpret_cast<EncodeTiled>(function) : nullptr;
  }();
  return found;
}

}  // namespace farspan::kernels::cuda
