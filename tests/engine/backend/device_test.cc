// SPDX-License-Identifier: Apache-2.0
#include "engine/backend/device.h"

#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"

namespace farspan {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

// A machine with one GPU of this compute capability.
auto OneGpu(int major, int minor) {
  return [=](int ordinal) -> absl::StatusOr<CudaDeviceInfo> {
    if (ordinal > 0) return absl::FailedPreconditionError("the last GPU of this machine is cuda:0");
    return CudaDeviceInfo{.name = "GPU X", .compute_major = major, .compute_minor = minor};
  };
}

absl::StatusOr<CudaDeviceInfo> NoDriver(int) { return absl::FailedPreconditionError("no NVIDIA driver is installed"); }

TEST(ChooseDeviceTest, AutoTakesTheFirstGpuThatKernelsRunOn) {
  const auto choice = ChooseDevice("auto", OneGpu(9, 0));
  ASSERT_THAT(choice, IsOk());
  EXPECT_EQ(choice->name, "cuda:0");
  EXPECT_TRUE(choice->is_cuda());
  EXPECT_EQ(choice->reason, "taking cuda:0, the first GPU: GPU X, compute capability 9.0");
}

TEST(ChooseDeviceTest, AutoTakesTheCpuAndSaysWhyWhereThereIsNoUsableGpu) {
  EXPECT_EQ(ChooseDevice("auto", NoDriver)->name, "cpu");
  EXPECT_EQ(ChooseDevice("auto", NoDriver)->reason, "taking the CPU, since no NVIDIA driver is installed");
  EXPECT_EQ(ChooseDevice("auto", OneGpu(7, 5))->reason,
            "taking the CPU, since the GPU is GPU X, compute capability 7.5, and 8.0 is the least that can be used");
}

TEST(ChooseDeviceTest, ADeviceThatWasAskedForIsTakenOrRefused) {
  EXPECT_EQ(ChooseDevice("cpu", OneGpu(9, 0))->name, "cpu");
  EXPECT_EQ(ChooseDevice("cuda:0", OneGpu(8, 0))->name, "cuda:0");
  EXPECT_THAT(ChooseDevice("cuda:1", OneGpu(9, 0)),
              StatusIs(absl::StatusCode::kFailedPrecondition, "device cuda:1: the last GPU of this machine is cuda:0"));
  EXPECT_THAT(ChooseDevice("cuda:0", OneGpu(7, 0)),
              StatusIs(absl::StatusCode::kFailedPrecondition, StartsWith("device cuda:0: the GPU is GPU X")));
  EXPECT_THAT(ChooseDevice("cuda:0", NoDriver),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("no NVIDIA")));
}

TEST(ChooseDeviceTest, AnyOtherTextIsRefusedWithItsValue) {
  for (const char* text : {"", "gpu", "cuda", "cuda:", "cuda:-1", "cuda:00", "cuda:1 ", "CPU", "cuda:99999999999"}) {
    EXPECT_FALSE(IsDeviceText(text)) << text;
    EXPECT_THAT(ChooseDevice(text, OneGpu(9, 0)),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         std::string("device: must be auto, cpu or cuda:N, got '") + text + "'"));
  }
}

TEST(ChooseDeviceTest, LooksAtTheGpuOnce) {
  for (const char* text : {"auto", "cuda:0"}) {
    int num_looks = 0;
    const auto choice = ChooseDevice(text, [&](int ordinal) {
      ++num_looks;
      return OneGpu(9, 0)(ordinal);
    });
    ASSERT_THAT(choice, IsOk());
    EXPECT_EQ(num_looks, 1);
    EXPECT_EQ(choice->gpu->name, "GPU X") << "so that opening it needs no look";
  }
}

TEST(OpenDeviceTest, TheCpuHasItsOwnPageSize) {
  const auto device = OpenDevice("cpu", {.isa = CpuIsa::kPortable});
  ASSERT_THAT(device, IsOk());
  EXPECT_EQ(device->backend->name(), "cpu/portable");
  EXPECT_EQ(device->reason, "taking the CPU, as asked");
  EXPECT_EQ(device->default_page_tokens, 32);
}

TEST(OpenDeviceTest, AutoOpensWhateverThisMachineHas) {
  const auto device = OpenDevice("auto", {.isa = CpuIsa::kPortable});
  ASSERT_THAT(device, IsOk());
  EXPECT_EQ(device->reason, ChooseDevice("auto")->reason);
  EXPECT_NE(device->backend, nullptr);
}

TEST(OpenDeviceTest, RefusesCpuOptionsAsTheCpuBackendDoes) {
  EXPECT_THAT(OpenDevice("cpu", {.num_threads = 0}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("threads")));
}

}  // namespace
}  // namespace farspan
