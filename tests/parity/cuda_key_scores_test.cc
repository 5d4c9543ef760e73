// SPDX-License-Identifier: Apache-2.0
// Scores of keys on the device against the portable CPU kernel, on fresh random lists with poisoned outputs.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cmath>

#include "engine/backend/cuda_backend.h"
#include "engine/kernels/cpu/number_formats.h"
#include "engine/kernels/cuda/kernels.h"
#include "tests/engine/kernels/key_score_scene.h"
#include "tests/parity/device_arrays.h"

namespace farspan {
namespace {

using kernels::Activation;
using kernels::kNan;

class CudaKeyScoresTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto cuda = CudaBackend::Create(0);
    if (!cuda.ok()) GTEST_SKIP() << cuda.status().message();
    cuda_ = *std::move(cuda);
  }

  // `args` in device memory, run, and its scores.
  std::vector<float> RunOnDevice(const kernels::KeyScoreScene& scene, kernels::KeyScoresArgs args, bool is_bf16,
                                 const std::vector<float>& q) {
    DeviceArrays arrays(cuda_.get());
    kernels::AttentionCommon& common = args.common;
    const int64_t context = scene.scene().shape().context_tokens;
    const auto put = [&](const auto* data, int64_t size) {
      return arrays.PutBytes(std::as_bytes(std::span(data, static_cast<size_t>(size))));
    };
    common.rope_cos_sin = static_cast<const float*>(put(common.rope_cos_sin, context * common.rope_dim));
    common.inverse_frequencies = static_cast<const double*>(put(common.inverse_frequencies, common.rope_dim / 2));
    const int64_t cache_bytes = common.cache.num_pages * common.cache.page_elements() * common.cache.element_bytes();
    common.cache.data = put(static_cast<const std::byte*>(common.cache.data), cache_bytes);
    common.entries = arrays.Put(scene.entries());
    common.lse = const_cast<float*>(arrays.Put(scene.lse()));
    if (is_bf16) {
      std::vector<uint16_t> rounded;
      for (const float value : q) rounded.push_back(kernels::FloatToBf16(value));
      common.activation = Activation::kBf16, common.q = arrays.Put(rounded);
    } else {
      common.q = arrays.Put(q);
    }
    args.rows = arrays.Put(scene.rows()), args.lists = arrays.Put(scene.lists());
    args.scores = const_cast<float*>(arrays.Put(std::vector<float>(scene.num_scores(), kNan)));
    EXPECT_EQ(kernels::cuda::LaunchKeyScores(args, nullptr), cudaSuccess);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    return arrays.Get(args.scores, scene.num_scores());
  }

  std::unique_ptr<Backend> cuda_;
  kernels::Random random_;
};

TEST_F(CudaKeyScoresTest, AreTheCpus) {
  for (int trial = 0; trial < 60; ++trial) {
    const kernels::KeyScoreScene scene(&random_);
    std::vector<float> cpu(scene.num_scores(), kNan);
    kernels::KeyScoresArgs args = scene.Args(cpu.data());
    const int64_t num_q = scene.scene().shape().context_tokens * args.common.num_heads * args.common.cache.head_dim;
    std::vector<float> q(args.common.q_f32(), args.common.q_f32() + num_q);
    const bool is_bf16 = random_.OneIn(2);
    for (float& value : q) value = is_bf16 ? kernels::Bf16ToFloat(kernels::FloatToBf16(value)) : value;
    args.common.q = q.data();
    RunShuffled(kernels::PortableKernels().key_scores, args, &random_);
    const std::vector<float> device = RunOnDevice(scene, args, is_bf16, q);
    for (size_t i = 0; i < cpu.size(); ++i) {
      if (std::isnan(cpu[i]) || std::isinf(cpu[i])) {
        ASSERT_TRUE(std::isnan(cpu[i]) ? std::isnan(device[i]) : cpu[i] == device[i])
            << "at " << i << ": " << cpu[i] << " and " << device[i];
      } else {
        ASSERT_NEAR(device[i], cpu[i], 3e-5 * (1 + std::fabs(cpu[i]))) << "at " << i;
      }
    }
  }
}

}  // namespace
}  // namespace farspan
