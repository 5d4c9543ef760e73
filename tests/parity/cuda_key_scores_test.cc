// SPDX-License-Identifier: Apache-2.0
// Scores of keys on the device against the portable CPU kernel, on fresh random lists with poisoned outputs.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cmath>

#include "engine/backend/cuda_backend.h"
#include "engine/kernels/cpu/number_formats.h"
#include "engine/kernels/cuda/kernels.h"
#include "tests/engine/kernels/key_score_scene.h"
#include "tests/parity/device_scene.h"

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
    const kernels::AttentionCommon host = args.common;
    kernels::AttentionCommon& common = args.common;
    common = OnDevice(host, scene.entries(), &arrays);
    const int64_t num_rotations = scene.scene().shape().context_tokens * host.rope_dim;
    common.rope_cos_sin = arrays.Put(std::vector<float>(host.rope_cos_sin, host.rope_cos_sin + num_rotations));
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

  // Runs the scene on the device and on the CPU, with queries of bf16 or not.
  void ExpectTheCpus(const kernels::KeyScoreScene& scene, bool is_bf16) {
    std::vector<float> cpu(scene.num_scores(), kNan);
    kernels::KeyScoresArgs args = scene.Args(cpu.data());
    const int64_t num_q = scene.scene().shape().context_tokens * args.common.num_heads * args.common.cache.head_dim;
    std::vector<float> q(args.common.q_f32(), args.common.q_f32() + num_q);
    if (is_bf16) q = RoundedToBf16(q);
    args.common.q = q.data();
    RunShuffled(kernels::PortableKernels().key_scores, args, &random_);
    const std::vector<float> device = RunOnDevice(scene, args, is_bf16, q);
    for (size_t i = 0; i < cpu.size(); ++i) {
      if (std::isnan(cpu[i]) || std::isinf(cpu[i])) {
        ASSERT_TRUE(std::isnan(cpu[i]) ? std::isnan(device[i]) : cpu[i] == device[i])
            << "at " << i << ": " << cpu[i] << " and " << device[i];
      } else {
        ASSERT_NEAR(device[i], cpu[i], 1e-4 * (1 + std::fabs(cpu[i]))) << "at " << i;
      }
    }
  }

  std::unique_ptr<Backend> cuda_;
  kernels::Random random_;
};

TEST_F(CudaKeyScoresTest, OfAnyShapeAreTheCpus) {
  for (int trial = 0; trial < 60; ++trial) {
    ExpectTheCpus(kernels::KeyScoreScene(&random_), random_.OneIn(2));
    if (HasFatalFailure()) return;
  }
}

// Windows of queries, rows of more than one tile, lists of many tiles.
TEST_F(CudaKeyScoresTest, OfModelsHeadsAreTheCpus) {
  constexpr int64_t kHeadDims[] = {64, 80, 96, 128, 256}, kPageTokens[] = {16, 32, 64};
  constexpr kernels::KvElement kElements[] = {kernels::KvElement::kBf16, kernels::KvElement::kF16,
                                              kernels::KvElement::kF8E4M3};
  for (int trial = 0; trial < 90; ++trial) {
    const int64_t head_dim = random_.OneOf<int64_t>(kHeadDims);
    const kernels::SceneShape shape = {.num_kv_heads = random_.Integer(1, 2),
                                       .group = random_.OneIn(8) ? 20 : random_.Integer(1, 16),
                                       .head_dim = head_dim,
                                       .rope_dim = head_dim,
                                       .page_tokens = random_.OneOf<int64_t>(kPageTokens),
                                       .context_tokens = random_.Integer(1, 400),
                                       .element = random_.OneOf<kernels::KvElement>(kElements)};
    SCOPED_TRACE(testing::Message() << "head_dim " << head_dim << " group " << shape.group << " element "
                                    << static_cast<int>(shape.element) << " context " << shape.context_tokens);
    ExpectTheCpus(kernels::KeyScoreScene(shape, random_.OneIn(3) ? 24 : 2, &random_), true);
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace farspan
