// SPDX-License-Identifier: Apache-2.0
// What stands for the CUDA backend in a build without it.
#include "engine/backend/cuda_backend.h"
#include "engine/backend/cuda_device.h"

namespace farspan {

absl::StatusOr<CudaDeviceInfo> ProbeCudaDevice(int) {
  return absl::FailedPreconditionError("this program was built without CUDA");
}

absl::StatusOr<std::unique_ptr<Backend>> CudaBackend::Create(int ordinal) { return ProbeCudaDevice(ordinal).status(); }

absl::StatusOr<std::unique_ptr<Backend>> CudaBackend::Create(const CudaDeviceInfo& info) {
  return Create(info.ordinal);
}

}  // namespace farspan
