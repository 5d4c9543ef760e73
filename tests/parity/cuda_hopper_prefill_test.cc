// SPDX-License-Identifier: Apache-2.0
// Hopper's prefill attention against the portable CPU kernel, on the same bf16 queries and the same cache of bf16, f16
// or e4m3: random lists with caps, masks, windows and gaps, whole contexts, block masks; outputs poisoned.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cmath>

#include "engine/backend/cuda_backend.h"
#include "engine/kernels/cpu/kernel_table.h"
#include "engine/kernels/cpu/number_formats.h"
#include "engine/kernels/cuda/hopper_prefill_attention.h"
#include "tests/engine/kernels/attention_scene.h"
#include "tests/parity/device_arrays.h"

namespace farspan {
namespace {

using kernels::AttentionScene;
using kernels::AttentionWork;
using kernels::kNan;
using kernels::Random;

constexpr int kTrials = 30;

class HopperPrefillTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto cuda = CudaBackend::Create(0);
    if (!cuda.ok()) GTEST_SKIP() << cuda.status().message();
    backend_ = *std::move(cuda);
    int major = 0;
    ASSERT_EQ(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), cudaSuccess);
    if (major != 9) GTEST_SKIP() << "the device's compute capability is " << major << ", not 9";
  }

  kernels::SceneShape RandomShape() {
    constexpr int64_t kPageTokens[] = {16, 32, 64};
    constexpr kernels::KvElement kElements[] = {kernels::KvElement::kBf16, kernels::KvElement::kF16,
                                                kernels::KvElement::kF8E4M3};
    const int64_t head_dim = random_.OneIn(2) ? 64 : 128;
    return {.num_kv_heads = random_.Integer(1, 3),
            .group = random_.OneIn(12) ? 32 : random_.Integer(1, 4),
            .head_dim = head_dim,
            .rope_dim = random_.OneIn(2) ? head_dim : 2 * random_.Integer(1, head_dim / 2),
            .page_tokens = kPageTokens[random_.Integer(0, 2)],
            .context_tokens = random_.Integer(1, 700),
            .element = kElements[random_.Integer(0, 2)]};
  }

  // Runs the work on both, its scores multiplied by `steepness`, and compares outputs and log-sum-exps.
  void ExpectSame(const AttentionScene& scene, const AttentionWork& work, float steepness = 1) {
    const int64_t num_lse = scene.shape().context_tokens * scene.num_heads();
    const int64_t num_out = num_lse * scene.shape().head_dim;
    std::vector<float> out(static_cast<size_t>(num_out), kNan), lse(static_cast<size_t>(num_lse), kNan), q;
    std::vector<uint16_t> q_bits;
    kernels::PrefillAttentionArgs args = {.common = scene.Common(work.entries, out.data(), lse.data()),
                                          .tiles = work.tiles.data(),
                                          .num_tiles = static_cast<int64_t>(work.tiles.size()),
                                          .kept_ranges = work.kept_ranges.empty() ? nullptr : work.kept_ranges.data(),
                                          .kept_blocks = work.kept_blocks.data()};
    for (int64_t i = 0; i < num_out; ++i) {
      q_bits.push_back(kernels::FloatToBf16(args.common.q_f32()[i]));
      q.push_back(kernels::Bf16ToFloat(q_bits.back()));
    }
    const std::vector<kernels::KvList> lists(work.tiles.size() * static_cast<size_t>(scene.num_heads()),
                                             {0, static_cast<int64_t>(work.entries.size())});
    args.common.q = q.data();
    args.common.scale *= steepness;
    args.lists = lists.data();
    kernels::RunShuffled(kernels::KernelLevels().front()->prefill_attention, args, &random_);

    DeviceArrays arrays(backend_.get());
    const auto put = [&](const void* data, int64_t bytes) {
      return arrays.PutBytes(std::span(static_cast<const std::byte*>(data), static_cast<size_t>(bytes)));
    };
    kernels::PrefillAttentionArgs device = args;
    kernels::AttentionCommon& common = device.common;
    const kernels::KvLayerView& cache = common.cache;
    common.cache.data = put(cache.data, cache.num_pages * cache.page_elements() * cache.element_bytes());
    common.q = arrays.Put(q_bits);
    const std::vector<uint16_t> poison(static_cast<size_t>(num_out), 0xffff);
    const uint16_t* device_out = arrays.Put(poison);
    common.out = const_cast<uint16_t*>(device_out);
    common.lse = const_cast<float*>(arrays.Put(std::vector<float>(static_cast<size_t>(num_lse), kNan)));
    common.entries = arrays.Put(work.entries);
    common.rope_cos_sin =
        static_cast<const float*>(put(common.rope_cos_sin, scene.shape().context_tokens * common.rope_dim * 4));
    common.inverse_frequencies = static_cast<const double*>(put(common.inverse_frequencies, common.rope_dim / 2 * 8));
    common.activation = kernels::Activation::kBf16;
    device.tiles = arrays.Put(work.tiles);
    device.lists = arrays.Put(lists);
    if (!work.kept_ranges.empty()) {
      device.kept_ranges = arrays.Put(work.kept_ranges);
      device.kept_blocks = arrays.Put(work.kept_blocks);
    }
    const int64_t workspace_bytes = kernels::cuda::HopperPrefillWorkspaceBytes();
    void* workspace = arrays.PutBytes(std::vector<std::byte>(static_cast<size_t>(workspace_bytes), std::byte{0xff}));
    ASSERT_TRUE(kernels::cuda::HopperPrefillSupports(device));
    ASSERT_EQ(kernels::cuda::LaunchHopperPrefillAttention(device, {workspace, workspace_bytes}, nullptr), cudaSuccess);
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    const bool turns = std::any_of(work.entries.begin(), work.entries.end(), [](const kernels::KvEntry& entry) {
      return entry.query_cap != kernels::kNoQueryCap;
    });
    Compare(out, arrays.Get(device_out, out.size()), lse, arrays.Get(common.lse, lse.size()), turns);
  }

  static void Compare(const std::vector<float>& out, const std::vector<uint16_t>& found, const std::vector<float>& lse,
                      const std::vector<float>& found_lse, bool turns) {
    // A query that is turned for an entry is rounded to bf16 once more.
    const float lse_tolerance = turns ? 1e-2f : 5e-3f;
    for (size_t i = 0; i < out.size(); ++i) {
      const float value = kernels::Bf16ToFloat(found[i]);
      if (std::isnan(out[i])) {
        ASSERT_EQ(found[i], 0xffff) << "written although no tile has the row, at " << i;
      } else {
        ASSERT_NEAR(value, out[i], 0.02 * (1 + std::fabs(out[i]))) << "at " << i;
      }
    }
    for (size_t i = 0; i < lse.size(); ++i) {
      if (std::isnan(lse[i]) || std::isinf(lse[i])) {
        ASSERT_TRUE(std::isnan(lse[i]) ? std::isnan(found_lse[i]) : found_lse[i] == lse[i]) << "at " << i;
      } else {
        ASSERT_NEAR(found_lse[i], lse[i], lse_tolerance) << "at " << i;
      }
    }
  }

  std::unique_ptr<Backend> backend_;
  Random random_;
};

TEST_F(HopperPrefillTest, WholeContextsAtAnyDepth) {
  for (int trial = 0; trial < kTrials && !HasFatalFailure(); ++trial) {
    const AttentionScene scene(RandomShape(), &random_);
    const int64_t context = scene.shape().context_tokens;
    const int64_t left_window = random_.OneIn(2) ? kernels::kNoLeftWindow : random_.Integer(1, context);
    ExpectSame(scene, {.tiles = kernels::RandomTiles(random_.Integer(0, context - 1), context, left_window, &random_),
                       .entries = scene.Entries(0, context)});
  }
}

// Weights of a later tile are beyond a float where they are relative to the maximum of the first.
TEST_F(HopperPrefillTest, ScoresThatGrowBeyondAFloatsRange) {
  for (int trial = 0; trial < kTrials && !HasFatalFailure(); ++trial) {
    const AttentionScene scene(RandomShape(), &random_);
    const int64_t context = scene.shape().context_tokens;
    ExpectSame(
        scene,
        {.tiles = kernels::RandomTiles(random_.Integer(0, context - 1), context, kernels::kNoLeftWindow, &random_),
         .entries = scene.Entries(0, context)},
        random_.Real(20, 200));
  }
}

TEST_F(HopperPrefillTest, RandomListsAndBlockMasks) {
  for (int trial = 0; trial < 2 * kTrials && !HasFatalFailure(); ++trial) {
    const AttentionScene scene(RandomShape(), &random_);
    const int64_t context = scene.shape().context_tokens;
    const int64_t left_window = random_.OneIn(2) ? kernels::kNoLeftWindow : random_.Integer(1, context);
    AttentionWork work = {
        .tiles = kernels::RandomTiles(random_.Integer(0, context - 1), context, left_window, &random_),
        .entries = scene.RandomEntries(context, &random_)};
    if (random_.OneIn(3)) work.entries = CutEntries(work.entries, &random_);
    if (random_.OneIn(2)) KeepRandomBlocks(scene, &work, &random_);
    ExpectSame(scene, work);
  }
}

}  // namespace
}  // namespace farspan
