// SPDX-License-Identifier: Apache-2.0
// What this machine's NVIDIA GPUs are. A build without CUDA has the same functions, and none of the devices.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace farspan {

// Kernels are built for this compute capability and above.
inline constexpr int kLeastComputeCapabilityMajor = 8;

struct CudaDeviceInfo {
  int ordinal = 0;   // N of cuda:N
  std::string name;  // "NVIDIA H200"
  int compute_major = 0;
  int compute_minor = 0;
};

// Uses the device as UseCudaDevice does. FAILED_PRECONDITION says why there is no such device, as a clause: built
// without CUDA, no driver or one too old, no GPU, none of that number, or a driver's error.
absl::StatusOr<CudaDeviceInfo> ProbeCudaDevice(int ordinal);

// Makes the device this thread's, which is the one that the runtime's calls are for, and its context where there is
// none. Costs nothing where it is this thread's already; nothing else of ours changes a thread's device.
absl::Status UseCudaDevice(int ordinal);

}  // namespace farspan
