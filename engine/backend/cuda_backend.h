// SPDX-License-Identifier: Apache-2.0
// The backend of one NVIDIA GPU: ops are enqueued on one stream, in call order, with the kernels of
// engine/kernels/cuda. A build without CUDA refuses every device.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/backend/backend.h"

namespace farspan {

class CudaBackend {
 public:
  // FAILED_PRECONDITION says why there is no such device, as ProbeCudaDevice does.
  static absl::StatusOr<std::unique_ptr<Backend>> Create(int ordinal);
};

}  // namespace farspan
