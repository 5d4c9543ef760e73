// SPDX-License-Identifier: Apache-2.0
#include "engine/backend/cuda_device.h"

#include <cuda_runtime_api.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "engine/backend/cuda_cublas_lt.h"
#include "engine/base/status_macros.h"

namespace farspan {
namespace {

std::string VersionText(int version) { return absl::StrCat(version / 1000, ".", version % 1000 / 10); }

// No driver at all and one too old are the same error to the runtime.
absl::Status CountDevices(int* count) {
  int driver_version = 0;
  if (cudaDriverGetVersion(&driver_version) != cudaSuccess || driver_version == 0) {
    return absl::FailedPreconditionError("no NVIDIA driver is installed");
  }
  const cudaError_t error = cudaGetDeviceCount(count);
  if (error == cudaErrorInsufficientDriver) {
    return absl::FailedPreconditionError(absl::StrCat("the NVIDIA driver is for CUDA ", VersionText(driver_version),
                                                      ", this build needs ", VersionText(CUDART_VERSION)));
  }
  if (error == cudaErrorNoDevice || (error == cudaSuccess && *count == 0)) {
    return absl::FailedPreconditionError("this machine has no NVIDIA GPU, or none that this process may use");
  }
  if (error == cudaSuccess) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("the NVIDIA driver does not start: ", cudaGetErrorString(error)));
}

absl::Status CheckLibraries() {
  const std::string& problem = CublasLtProblem();
  if (problem.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("cuBLASLt of CUDA 13 is not installed: ", problem));
}

absl::Status Failed(cudaError_t error) {
  return absl::FailedPreconditionError(absl::StrCat("the GPU cannot be used: ", cudaGetErrorString(error)));
}

}  // namespace

absl::Status UseCudaDevice(int ordinal) {
  thread_local int current = -1;
  if (current == ordinal) return absl::OkStatus();
  if (const cudaError_t error = cudaSetDevice(ordinal); error != cudaSuccess) return Failed(error);
  current = ordinal;
  return absl::OkStatus();
}

absl::StatusOr<CudaDeviceInfo> ProbeCudaDevice(int ordinal) {
  int count = 0;
  FARSPAN_RETURN_IF_ERROR(CountDevices(&count));
  FARSPAN_RETURN_IF_ERROR(CheckLibraries());
  if (ordinal < 0 || ordinal >= count) {
    return absl::FailedPreconditionError(absl::StrCat("the last GPU of this machine is cuda:", count - 1));
  }
  cudaDeviceProp properties{};
  if (const cudaError_t error = cudaGetDeviceProperties(&properties, ordinal); error != cudaSuccess) {
    return Failed(error);
  }
  FARSPAN_RETURN_IF_ERROR(UseCudaDevice(ordinal));
  return CudaDeviceInfo{.ordinal = ordinal,
                        .name = properties.name,
                        .compute_major = properties.major,
                        .compute_minor = properties.minor};
}

}  // namespace farspan
