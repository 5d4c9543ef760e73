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
  return absl::FailedPreconditionError(absl::StrCat("the GPU is ", GpuText(info), ", and ",
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
      return DeviceChoice{
          .name = "cuda:0", .reason = absl::StrCat("taking cuda:0, the first GPU: ", GpuText(*gpu)), .gpu = *gpu};
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
                      .reason = absl::StrCat("taking ", AbslView(text), ", as asked: ", GpuText(*gpu)),
                      .gpu = *gpu};
}

absl::StatusOr<DeviceChoice> ChooseCpu(std::string_view text, std::string_view what) {
  if (text == "auto") {
    return DeviceChoice{.name = "cpu", .reason = absl::StrCat("taking the CPU, as ", AbslView(what), " needs")};
  }
  if (text == "cpu") return ChooseDevice(text);
  return absl::InvalidArgumentError(
      absl::StrCat("device: must be auto or cpu for ", AbslView(what), ", got '", AbslView(text), "'"));
}

int64_t DefaultPageTokens(const DeviceChoice& choice) { return choice.is_cuda() ? kCudaPageTokens : kCpuPageTokens; }

absl::StatusOr<Device> OpenDevice(const DeviceChoice& choice, const CpuBackendOptions& cpu) {
  Device device{.is_cuda = choice.is_cuda(), .reason = choice.reason, .default_page_tokens = DefaultPageTokens(choice)};
  if (choice.is_cuda()) {
    FARSPAN_ASSIGN_OR_RETURN(device.backend, CudaBackend::Create(*choice.gpu));
  } else {
    FARSPAN_ASSIGN_OR_RETURN(device.backend, CpuBackend::Create(cpu));
  }
  return device;
}

absl::StatusOr<Device> OpenDevice(std::string_view text, const CpuBackendOptions& cpu) {
  FARSPAN_ASSIGN_OR_RETURN(const DeviceChoice choice, ChooseDevice(text));
  return OpenDevice(choice, cpu);
}

int64_t AvailableMemoryBytes() {
  const auto physical = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<int64_t>(sysconf(_SC_PAGESIZE));
  return std::min(physical, ContainerMemoryBytes());
}

}  // namespace farspan
