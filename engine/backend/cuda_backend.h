// SPDX-License-Identifier: Apache-2.0
// The backend of one NVIDIA GPU: ops are enqueued on one stream, in call order, with the kernels of
// engine/kernels/cuda. Built where the CUDA toolkit is; runs where a driver and a device are.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/backend/backend.h"

namespace farspan {

class CudaBackend {
 public:
  // FAILED_PRECONDITION says why there is no such device: no driver, no device of that number, or one that this build
  // has no code for.
  static absl::StatusOr<std::unique_ptr<Backend>> Create(int ordinal);

  // Bytes of the device's memory that are free now.
  static absl::StatusOr<int64_t> FreeMemoryBytes(int ordinal);
};

}  // namespace farspan
