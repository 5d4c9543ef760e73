// SPDX-License-Identifier: Apache-2.0
// Random fills have the same bits on the device as on the CPU.
#include <gtest/gtest.h>

#include "engine/backend/cpu_backend.h"
#include "engine/backend/cuda_backend.h"
#include "tests/parity/device_arrays.h"

namespace farspan {
namespace {

TEST(FillRandomParityTest, BitsAreTheCpus) {
  auto cuda = CudaBackend::Create(0);
  if (!cuda.ok()) GTEST_SKIP() << cuda.status().message();
  const std::unique_ptr<Backend> cpu = *CpuBackend::Create({.isa = CpuIsa::kPortable});
  kernels::Random random;
  for (const auto format :
       {kernels::RandomFormat::kF32, kernels::RandomFormat::kBf16, kernels::RandomFormat::kF16,
        kernels::RandomFormat::kF8E4M3, kernels::RandomFormat::kQ4_0, kernels::RandomFormat::kQ8_0}) {
    for (int trial = 0; trial < 10; ++trial) {
      const int64_t num_values = 32 * random.Integer(1, 3000), capacity_bytes = 4 * num_values;
      const auto key = static_cast<uint64_t>(random.Integer(0, INT64_MAX));
      const auto exponent = static_cast<int>(random.Integer(-7, 8));
      std::vector<std::vector<uint8_t>> results;
      for (Backend* backend : {cpu.get(), cuda->get()}) {
        DeviceArrays arrays(backend);
        const std::vector<uint8_t> poison(static_cast<size_t>(capacity_bytes), 0xff);
        void* const data = arrays.PutBytes(std::as_bytes(std::span(poison)));
        backend->FillRandom(
            {.data = data, .format = format, .num_values = num_values, .key = key, .exponent = exponent});
        ASSERT_TRUE(backend->Wait(backend->Submit()).ok());
        results.push_back(arrays.Get(static_cast<const uint8_t*>(data), poison.size()));
      }
      ASSERT_EQ(results[0], results[1]) << "format " << static_cast<int>(format);
    }
  }
}

}  // namespace
}  // namespace farspan
