// SPDX-License-Identifier: Apache-2.0
#include "engine/backend/device.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/backend/cuda_backend.h"
#include "engine/base/absl_view.h"
#include "engine/base/status_macros.h"

namespace farspan {
namespace {

constexpr int64_t kCpuPageTokens = 32;
constexpr int64_t kCudaPageTokens = 64;

// N of "cuda:N", written as a number is.
std::optional<int> CudaOrdinal(std::string_view text) {
  absl::string_view digits = AbslView(text);
  int ordinal = 0;
  if (!absl::ConsumePrefix(&digits, "cuda:") || !absl::SimpleAtoi(digits, &ordinal) || ordinal < 0) return std::nullopt;
  if (absl::StrCat(ordinal) != digits) return std::nullopt;
  return ordinal;
}

std::string GpuText(const CudaDeviceInfo& info) {
  return absl::StrCat(info.name, ", compute capability ", info.compute_major, ".", info.compute_minor);
}

// The GPU, if kernels run on it.
absl::StatusOr<CudaDeviceInfo> UsableGpu(int ordinal, CudaProbe probe) {
  FARSPAN_ASSIGN_OR_RETURN(CudaDeviceInfo info, probe(ordinal));
  if (info.compute_major >= kLeastComputeCapabilityMajor) return info;
  return absl::FailedPreconditionError(absl::StrCat("cuda:", ordinal, " is ", GpuText(info), ", and ",
                                                    kLeastComputeCapabilityMajor, ".0 is the least that can be used"));
}

// The container's limit by cgroup v2; no file or "max" is none.
int64_t ContainerMemoryBytes() {
  std::ifstream file("/sys/fs/cgroup/memory.max");
  std::string text;
  int64_t limit_bytes = 0;
  if (!(file >> text) || !absl::SimpleAtoi(text, &limit_bytes)) return std::numeric_limits<int64_t>::max();
  return limit_bytes;
}

}  // namespace

bool IsDeviceText(std::string_view text) { return text == "auto" || text == "cpu" || CudaOrdinal(text).has_value(); }

absl::StatusOr<DeviceChoice> ChooseDevice(std::string_view text, CudaProbe probe) {
  if (text == "cpu") return DeviceChoice{.name = "cpu", .reason = "taking the CPU, as asked"};
  if (text == "auto") {
    const absl::StatusOr<CudaDeviceInfo> gpu = UsableGpu(0, probe);
    if (gpu.ok()) {
      return DeviceChoice{.name = "cuda:0", .reason = absl::StrCat("taking cuda:0, the first GPU: ", GpuText(*gpu))};
    }
    return DeviceChoice{.name = "cpu", .reason = absl::StrCat("taking the CPU, since ", gpu.status().message())};
  }
  const std::optional<int> ordinal = CudaOrdinal(text);
  if (!ordinal)
    return absl::InvalidArgumentError(absl::StrCat("device: ", kDeviceRule, ", got '", AbslView(text), "'"));
  const absl::StatusOr<CudaDeviceInfo> gpu = UsableGpu(*ordinal, probe);
  if (!gpu.ok()) {
    return absl::Status(gpu.status().code(), absl::StrCat("device ", AbslView(text), ": ", gpu.status().message()));
  }
  return DeviceChoice{.name = std::string(text),
                      .reason = absl::StrCat("taking ", AbslView(text), ", as asked: ", GpuText(*gpu))};
}

absl::StatusOr<Device> OpenDevice(std::string_view text, const CpuBackendOptions& cpu) {
  FARSPAN_ASSIGN_OR_RETURN(DeviceChoice choice, ChooseDevice(text));
  Device device{.reason = std::move(choice.reason)};
  if (const std::optional<int> ordinal = CudaOrdinal(choice.name)) {
    FARSPAN_ASSIGN_OR_RETURN(const CudaDeviceInfo info, ProbeCudaDevice(*ordinal));
    FARSPAN_ASSIGN_OR_RETURN(device.backend, CudaBackend::Create(*ordinal));
    device.is_cuda = true;
    device.free_memory_bytes = info.free_bytes;
    device.total_memory_bytes = info.total_bytes;
    device.default_page_tokens = kCudaPageTokens;
    return device;
  }
  FARSPAN_ASSIGN_OR_RETURN(device.backend, CpuBackend::Create(cpu));
  device.free_memory_bytes = device.total_memory_bytes = AvailableMemoryBytes();
  device.default_page_tokens = kCpuPageTokens;
  return device;
}

int64_t AvailableMemoryBytes() {
  const auto physical = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<int64_t>(sysconf(_SC_PAGESIZE));
  return std::min(physical, ContainerMemoryBytes());
}

}  // namespace farspan
