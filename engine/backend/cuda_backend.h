// SPDX-License-Identifier: Apache-2.0
// The backend of one NVIDIA GPU: ops are enqueued on one stream, in call order, with the kernels of
// engine/kernels/cuda. A build without CUDA refuses every device.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/backend/backend.h"
#include "engine/backend/cuda_device.h"

namespace farspan {

class CudaBackend {
 public:
  // Of a device that ProbeCudaDevice found. One process uses one: FAILED_PRECONDITION where it has used another.
  static absl::StatusOr<std::unique_ptr<Backend>> Create(const CudaDeviceInfo& info);
  // Fails as ProbeCudaDevice does, too.
  static absl::StatusOr<std::unique_ptr<Backend>> Create(int ordinal);
};

}  // namespace farspan
