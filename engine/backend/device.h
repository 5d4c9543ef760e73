// SPDX-License-Identifier: Apache-2.0
// Which device runs the model: "auto", "cpu" or "cuda:N" to a backend, with the reason for the choice.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/backend/backend.h"
#include "engine/backend/cpu_backend.h"
#include "engine/backend/cuda_device.h"

namespace farspan {

// What a text that is no device breaks.
inline constexpr char kDeviceRule[] = "must be auto, cpu or cuda:N";

bool IsDeviceText(std::string_view text);

struct DeviceChoice {
  std::string name;                   // "cpu" or "cuda:N"
  std::string reason;                 // which was taken and why, as a clause: "taking the CPU, as asked"
  std::optional<CudaDeviceInfo> gpu;  // where it is one

  bool is_cuda() const { return gpu.has_value(); }
};

// "auto" is cuda:0 where it can be used and the CPU elsewhere. INVALID_ARGUMENT for any other text, FAILED_PRECONDITION
// where the GPU that was asked for cannot be used; both begin with "device".
using CudaProbe = absl::FunctionRef<absl::StatusOr<CudaDeviceInfo>(int ordinal)>;
absl::StatusOr<DeviceChoice> ChooseDevice(std::string_view text, CudaProbe probe = ProbeCudaDevice);

// The same for what runs on the CPU alone: "auto" is the CPU, and INVALID_ARGUMENT names `what` for a GPU.
absl::StatusOr<DeviceChoice> ChooseCpu(std::string_view text, std::string_view what);

struct Device {
  std::unique_ptr<Backend> backend;
  bool is_cuda = false;
  std::string reason;
  int64_t default_page_tokens = 0;  // tokens of a KV page where nobody says
};

// Of a KV page on that device where nobody says.
int64_t DefaultPageTokens(const DeviceChoice& choice);

// `cpu` is read where the CPU is taken, and refused as CpuBackend::Create does; a GPU as CudaBackend::Create does.
absl::StatusOr<Device> OpenDevice(const DeviceChoice& choice, const CpuBackendOptions& cpu);
// The same of what ChooseDevice finds, failing as it does.
absl::StatusOr<Device> OpenDevice(std::string_view text, const CpuBackendOptions& cpu);

// Memory of this machine, or of its container where that is less.
int64_t AvailableMemoryBytes();

}  // namespace farspan
