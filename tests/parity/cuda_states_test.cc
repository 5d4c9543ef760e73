// SPDX-License-Identifier: Apache-2.0
// Attention in parts and compaction on the device against the CPU, on fresh random inputs with poisoned outputs.
#include <gtest/gtest.h>

#include <cmath>

#include "engine/backend/cpu_backend.h"
#include "engine/backend/cuda_backend.h"
#include "tests/engine/kernels/compact_case.h"
#include "tests/engine/kernels/state_scene.h"
#include "tests/parity/device_scene.h"

namespace farspan {
namespace {

using kernels::kNan;

class CudaStatesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto cuda = CudaBackend::Create(0);
    if (!cuda.ok()) GTEST_SKIP() << cuda.status().message();
    cuda_ = *std::move(cuda);
    cpu_ = *CpuBackend::Create({.isa = CpuIsa::kPortable});
  }

  kernels::SceneShape RandomShape() {
    constexpr int64_t kHeadDims[] = {64, 80, 96, 128, 256}, kPageTokens[] = {16, 32, 64};
    const int64_t head_dim = random_.OneOf<int64_t>(kHeadDims);
    return {.num_kv_heads = random_.Integer(1, 3),
            .group = random_.OneIn(8) ? 20 : random_.Integer(1, 16),
            .head_dim = head_dim,
            .rope_dim = head_dim,
            .page_tokens = random_.OneOf<int64_t>(kPageTokens),
            .context_tokens = random_.Integer(1, 700),
            .element = random_.OneOf<kernels::KvElement>(kernels::kAllKvElements)};
  }

  struct States {
    std::vector<float> outs, maxima, sums;  // of the parts
    std::vector<float> out, lse;            // merged
  };

  // Queries are those that bf16 holds, on either backend.
  static States Run(Backend& backend, const kernels::StateScene& scene) {
    DeviceArrays arrays(&backend);
    const kernels::SceneShape& shape = scene.scene().shape();
    EXPECT_TRUE(backend
                    .Prepare({.num_heads = scene.scene().num_heads(),
                              .num_kv_heads = shape.num_kv_heads,
                              .head_dim = shape.head_dim},
                             {})
                    .ok());
    const auto put_nan = [&](int64_t size) {
      return const_cast<float*>(arrays.Put(std::vector<float>(static_cast<size_t>(size), kNan)));
    };
    const int64_t places = scene.num_places(), values = places * scene.head_dim(), parts = scene.num_parts();
    kernels::AttentionCommon common = scene.scene().Common(scene.entries(), nullptr, put_nan(places));
    common = OnDevice(common, scene.entries(), &arrays);
    common.q = arrays.PutActivations(RoundedToBf16(scene.Queries()));
    common.activation = backend.activation();
    common.rope_cos_sin = arrays.Put(scene.Rotations());
    const auto* rows = arrays.Put(scene.rows());
    const auto* lists = arrays.Put(scene.lists());
    const kernels::SoftmaxStates all = {
        .out = put_nan(parts * values), .maximum = put_nan(parts * places), .sum = put_nan(parts * places)};
    for (int64_t part = 0; part < parts; ++part) backend.DecodeStates(scene.Part(part, common, rows, lists, all));
    float* const out = put_nan(values);
    float* const lse = put_nan(places);
    backend.MergeStates(scene.Merge(all, out, lse, backend.activation()));
    return {.outs = arrays.Get(all.out, static_cast<size_t>(parts * values)),
            .maxima = arrays.Get(all.maximum, static_cast<size_t>(parts * places)),
            .sums = arrays.Get(all.sum, static_cast<size_t>(parts * places)),
            .out = arrays.GetActivations(out, static_cast<size_t>(values)),
            .lse = arrays.Get(lse, static_cast<size_t>(places))};
  }

  // Infinities are equal.
  static void ExpectNear(const std::vector<float>& got, const std::vector<float>& want, double tolerance) {
    for (size_t i = 0; i < want.size(); ++i) {
      if (std::isfinite(want[i])) {
        ASSERT_NEAR(got[i], want[i], tolerance * (1 + std::fabs(want[i]))) << "at " << i;
      } else {
        ASSERT_EQ(got[i], want[i]) << "at " << i;
      }
    }
  }

  std::unique_ptr<Backend> cuda_;
  std::unique_ptr<Backend> cpu_;
  kernels::Random random_;
};

// A state may have any maximum, so that its parts are compared with its sum of the CPU's maximum: what they stand for.
TEST_F(CudaStatesTest, StatesAndWhatTheyMergeToAreTheCpus) {
  for (int trial = 0; trial < 40; ++trial) {
    const kernels::StateScene scene(RandomShape(), &random_);
    const States want = Run(*cpu_, scene), got = Run(*cuda_, scene);
    std::vector<float> want_lse, got_lse, want_mean, got_mean;
    const auto dim = static_cast<size_t>(scene.head_dim());
    for (size_t i = 0; i < want.sums.size(); ++i) {
      want_lse.push_back(want.maxima[i] + std::log(want.sums[i]));
      got_lse.push_back(got.maxima[i] + std::log(got.sums[i]));
      for (size_t c = i * dim; c < (i + 1) * dim; ++c) {
        want_mean.push_back(want.sums[i] == 0 ? want.outs[c] : want.outs[c] / want.sums[i]);
        got_mean.push_back(got.sums[i] == 0 ? got.outs[c] : got.outs[c] / got.sums[i]);
      }
    }
    ExpectNear(got_lse, want_lse, 1e-3);
    ExpectNear(got_mean, want_mean, 0.012);
    ExpectNear(got.lse, want.lse, 1e-3);
    ExpectNear(got.out, want.out, 0.012);
    if (HasFatalFailure()) return;
  }
}

TEST_F(CudaStatesTest, MergingIsTheCpusButForRounding) {
  for (int trial = 0; trial < 20; ++trial) {
    const int64_t num_rows = random_.Integer(1, 40), num_heads = random_.Integer(1, 40),
                  parts = random_.Integer(1, 130);
    const int64_t head_dim = 8 * random_.Integer(1, 32), places = num_rows * num_heads;
    std::vector<float> outs = random_.Reals(parts * places * head_dim, -2, 2),
                       sums = random_.Reals(parts * places, 1, 9);
    std::vector<float> maxima = random_.Reals(parts * places, -20, 20);
    for (size_t i = 0; i < sums.size(); ++i) {
      if (!random_.OneIn(5)) continue;
      sums[i] = 0, maxima[i] = -INFINITY;
      std::fill_n(outs.begin() + static_cast<std::ptrdiff_t>(i) * head_dim, head_dim, 0.0f);
    }
    std::vector<float> results[2], lses[2];
    for (Backend* backend : {cpu_.get(), cuda_.get()}) {
      DeviceArrays arrays(backend);
      const auto values = static_cast<size_t>(places * head_dim);
      const float* out = arrays.Put(std::vector<float>(values, kNan));
      const float* lse = arrays.Put(std::vector<float>(static_cast<size_t>(places), kNan));
      backend->MergeStates({.states = {.out = const_cast<float*>(arrays.Put(outs)),
                                       .maximum = const_cast<float*>(arrays.Put(maxima)),
                                       .sum = const_cast<float*>(arrays.Put(sums))},
                            .num_states = parts,
                            .out = const_cast<float*>(out),
                            .lse = const_cast<float*>(lse),
                            .num_rows = num_rows,
                            .num_heads = num_heads,
                            .head_dim = head_dim});
      const int side = backend == cuda_.get() ? 1 : 0;
      results[side] = arrays.Get(out, values), lses[side] = arrays.Get(lse, static_cast<size_t>(places));
    }
    ExpectNear(results[1], results[0], 1e-5);
    ExpectNear(lses[1], lses[0], 1e-6);
    if (HasFatalFailure()) return;
  }
}

TEST_F(CudaStatesTest, CompactTokensAndTheirBoundsAreWhatTheyMustBe) {
  for (int trial = 0; trial < 60; ++trial) {
    const kernels::CompactCase tokens(&random_);
    for (const bool has_bounds : {true, false}) {
      DeviceArrays arrays(cuda_.get());
      const auto* bytes = arrays.Put(tokens.bytes());
      const std::vector<uint8_t> poison = tokens.PoisonedBounds();
      const auto* bounds = arrays.Put(poison);
      cuda_->CompactTokens(tokens.Args(const_cast<uint8_t*>(bytes), has_bounds ? const_cast<uint8_t*>(bounds) : nullptr,
                                       arrays.Put(tokens.sources()), arrays.Put(tokens.pages())));
      ASSERT_EQ(arrays.Get(bytes, tokens.bytes().size()), tokens.ExpectedBytes());
      const std::vector<uint8_t> got = arrays.Get(bounds, poison.size());
      if (has_bounds) {
        ASSERT_TRUE(tokens.SameValues(got, tokens.ExpectedBounds()));
      } else {
        ASSERT_EQ(got, poison);
      }
    }
  }
}

}  // namespace
}  // namespace farspan
