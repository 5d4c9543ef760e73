// SPDX-License-Identifier: Apache-2.0
// The backend of the host CPU: ops run at once, on the caller and a pool of threads, with the kernels of one ISA level.
// Results do not depend on the number of threads.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "engine/backend/backend.h"

namespace farspan {

// kAuto is the fastest level that the CPU runs.
enum class CpuIsa : uint8_t { kAuto, kPortable, kAvx2, kAvx512 };

struct CpuBackendOptions {
  CpuIsa isa = CpuIsa::kAuto;
  int num_threads = 1;  // the calling thread included
};

class CpuBackend {
 public:
  // INVALID_ARGUMENT names `cpu_isa` and the levels that this CPU runs, or `threads`.
  static absl::StatusOr<std::unique_ptr<Backend>> Create(const CpuBackendOptions& options);
};

}  // namespace farspan
