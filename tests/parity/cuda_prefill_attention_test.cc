// SPDX-License-Identifier: Apache-2.0
// The portable CUDA prefill attention against the portable CPU kernel, on fresh random inputs with poisoned outputs:
// caches of bf16, fp16 and fp8, every head_dim, groups of 1 to 16 heads, every page size.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/backend/cpu_backend.h"
#include "engine/backend/cuda_backend.h"
#include "engine/kernels/cpu/number_formats.h"
#include "engine/kernels/cuda/prefill_attention.h"
#include "tests/engine/kernels/attention_scene.h"
#include "tests/parity/device_arrays.h"

namespace farspan {
namespace {

using kernels::AttentionResult;
using kernels::AttentionScene;
using kernels::AttentionWork;
using kernels::Bf16ToFloat;
using kernels::FloatToBf16;
using kernels::kNan;
using kernels::KvList;
using kernels::PrefillTile;
using kernels::Random;

constexpr int kTrials = 45;
// Queries, keys and values of a scene lie in [-kLargest, kLargest], and both sides read the same.
constexpr double kLargest = 2;
constexpr double kBf16Rounding = 1.0 / 256;  // relative, of one value

// How far results may lie from the CPU's, which are of float32 arithmetic.
struct Tolerance {
  double out_absolute, out_relative, lse_absolute, lse_relative;
};

// Sums and products of scores are float32 on both sides, and exact powers' errors are of that size. Weights are rounded
// to 16 bits before they meet values, but not for the denominator, and so are outputs. A query turned to a cap is
// rounded to 16 bits: the errors of its channels are independent, and a score's stays within a few times
// kBf16Rounding * scale * sqrt(head_dim) * |product|; it moves the log-sum-exp by as much, an output by as much times
// the largest value.
Tolerance ToleranceFor(const kernels::SceneShape& shape, bool turns) {
  const double head_dim = static_cast<double>(shape.head_dim), scale = 1 / std::sqrt(head_dim);
  const double largest_score = head_dim * kLargest * kLargest * scale;
  const double turned = turns ? kBf16Rounding * scale * std::sqrt(head_dim) * kLargest * kLargest : 0;
  return {.out_absolute = kBf16Rounding * kLargest + turned * kLargest + 1e-4,
          .out_relative = kBf16Rounding,
          .lse_absolute = largest_score / (1 << 20) + turned + 1e-5,
          .lse_relative = 1e-5};
}

size_t Index(int64_t i) { return static_cast<size_t>(i); }

kernels::SceneShape FastShape(Random* random) {
  constexpr int64_t kHeadDims[] = {64, 80, 96, 128, 256}, kPageTokens[] = {16, 32, 64};
  constexpr kernels::KvElement kElements[] = {kernels::KvElement::kBf16, kernels::KvElement::kF16,
                                              kernels::KvElement::kF8E4M3};
  kernels::SceneShape shape;
  shape.num_kv_heads = random->Integer(1, 2);
  shape.group = random->OneIn(4) ? random->Integer(7, 16) : random->Integer(1, 6);
  shape.head_dim = kHeadDims[random->Integer(0, 4)];
  shape.rope_dim = random->OneIn(2) ? shape.head_dim : shape.head_dim / 2;
  shape.page_tokens = kPageTokens[random->Integer(0, 2)];
  shape.context_tokens = random->Integer(1, random->OneIn(3) ? 900 : 200);
  shape.element = kElements[random->Integer(0, 2)];
  return shape;
}

// Queries [begin, end) in absolute-aligned tiles, cut at random where `ragged`.
std::vector<PrefillTile> Tiles(int64_t begin, int64_t end, int64_t left_window, bool ragged, Random* random) {
  std::vector<PrefillTile> tiles;
  while (begin < end) {
    int64_t tile_end = std::min(end, (begin / kernels::kPrefillTileQueries + 1) * kernels::kPrefillTileQueries);
    if (ragged) tile_end = random->Integer(begin + 1, tile_end);
    tiles.push_back(
        {.row = begin, .num_queries = tile_end - begin, .first_position = begin, .left_window = left_window});
    begin = tile_end;
  }
  return tiles;
}

class CudaPrefillAttentionTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto cuda = CudaBackend::Create(0);
    if (!cuda.ok()) GTEST_SKIP() << cuda.status().message();
    cpu_ = *CpuBackend::Create({.isa = CpuIsa::kPortable});
    cuda_ = *std::move(cuda);
  }

  AttentionResult Run(Backend& backend, kernels::Activation activation, const AttentionScene& scene,
                      const AttentionWork& work) {
    DeviceArrays arrays(&backend);
    const auto bytes = [](const auto* data, int64_t size) { return std::as_bytes(std::span(data, Index(size))); };
    kernels::AttentionCommon common = scene.Common(work.entries, nullptr, nullptr);
    const int64_t context = scene.shape().context_tokens, num_lse = context * common.num_heads;
    const int64_t num_out = num_lse * common.cache.head_dim;
    const bool is_bf16 = activation == kernels::Activation::kBf16;
    std::vector<uint16_t> q_bf16;
    std::vector<float> q;
    for (int64_t i = 0; i < num_out; ++i) {
      q_bf16.push_back(FloatToBf16(common.q_f32()[i]));
      q.push_back(Bf16ToFloat(q_bf16.back()));
    }
    common.activation = activation;
    common.q = is_bf16 ? static_cast<const void*>(arrays.Put(q_bf16)) : arrays.Put(q);
    const int64_t out_bytes = num_out * kernels::ActivationBytes(activation);
    common.out = const_cast<uint8_t*>(arrays.Put(std::vector<uint8_t>(Index(out_bytes), 0xff)));
    common.lse = const_cast<float*>(arrays.Put(std::vector<float>(Index(num_lse), kNan)));
    const int64_t cache_bytes = common.cache.num_pages * common.cache.page_elements() * common.cache.element_bytes();
    common.cache.data = arrays.PutBytes(bytes(static_cast<const std::byte*>(common.cache.data), cache_bytes));
    common.entries = arrays.Put(work.entries);
    common.rope_cos_sin =
        static_cast<const float*>(arrays.PutBytes(bytes(common.rope_cos_sin, context * common.rope_dim)));
    common.inverse_frequencies =
        static_cast<const double*>(arrays.PutBytes(bytes(common.inverse_frequencies, common.rope_dim / 2)));
    std::vector<KvList> lists = work.lists_by_head;
    if (lists.empty()) lists.assign(Index(scene.num_heads()), {0, static_cast<int64_t>(work.entries.size())});
    std::vector<KvList> all_lists;
    for (size_t i = 0; i < work.tiles.size(); ++i) all_lists.insert(all_lists.end(), lists.begin(), lists.end());
    const kernels::PrefillAttentionArgs args = {
        .common = common,
        .tiles = arrays.Put(work.tiles),
        .lists = arrays.Put(all_lists),
        .num_tiles = static_cast<int64_t>(work.tiles.size()),
        .kept_ranges = work.kept_ranges.empty() ? nullptr : arrays.Put(work.kept_ranges),
        .kept_blocks = arrays.Put(work.kept_blocks)};
    if (is_bf16) {
      EXPECT_EQ(kernels::cuda::LaunchPortablePrefillAttention(args, nullptr), cudaSuccess);
      EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    } else {
      backend.PrefillAttention(args);
    }
    AttentionResult result;
    if (is_bf16) {
      for (const uint16_t value : arrays.Get(static_cast<const uint16_t*>(common.out), Index(num_out))) {
        result.out.push_back(Bf16ToFloat(value));
      }
    } else {
      result.out = arrays.Get(common.out_f32(), Index(num_out));
    }
    result.lse = arrays.Get(common.lse, Index(num_lse));
    return result;
  }

  AttentionResult RunCuda(const AttentionScene& scene, const AttentionWork& work) {
    return Run(*cuda_, kernels::Activation::kBf16, scene, work);
  }

  void ExpectMatchesCpu(const AttentionScene& scene, const AttentionWork& work) {
    SCOPED_TRACE(testing::Message() << "head_dim " << scene.shape().head_dim << " group " << scene.shape().group
                                    << " page " << scene.shape().page_tokens << " context "
                                    << scene.shape().context_tokens << " element "
                                    << static_cast<int>(scene.shape().element));
    const AttentionResult cpu = Run(*cpu_, kernels::Activation::kF32, scene, work), cuda = RunCuda(scene, work);
    const bool turns = std::any_of(work.entries.begin(), work.entries.end(),
                                   [](const auto& entry) { return entry.query_cap != kernels::kNoQueryCap; });
    const Tolerance tolerance = ToleranceFor(scene.shape(), turns);
    ExpectNear(cpu.out, cuda.out, tolerance.out_absolute, tolerance.out_relative);
    ExpectNear(cpu.lse, cuda.lse, tolerance.lse_absolute, tolerance.lse_relative);
  }

  static void ExpectNear(const std::vector<float>& expected, const std::vector<float>& got, double absolute,
                         double relative) {
    ASSERT_EQ(expected.size(), got.size());
    for (size_t i = 0; i < expected.size(); ++i) {
      if (std::isnan(expected[i])) {
        ASSERT_TRUE(std::isnan(got[i])) << "at " << i << ": " << got[i];
      } else if (std::isinf(expected[i])) {
        ASSERT_EQ(got[i], expected[i]) << "at " << i;
      } else {
        ASSERT_NEAR(got[i], expected[i], absolute + relative * std::fabs(expected[i])) << "at " << i;
      }
    }
  }

  // Random entries for a scene, one list for all heads or one each; random tiles over its last queries.
  AttentionWork RandomWork(const AttentionScene& scene) {
    const int64_t context = scene.shape().context_tokens;
    AttentionWork work;
    const int64_t num_lists = random_.OneIn(3) ? scene.num_heads() : 1;
    for (int64_t i = 0; i < num_lists; ++i) {
      const auto begin = static_cast<int64_t>(work.entries.size());
      std::vector<kernels::KvEntry> entries =
          random_.OneIn(3) ? scene.Entries(0, context) : scene.RandomEntries(context, &random_);
      if (random_.OneIn(2)) entries = CutEntries(entries, &random_);
      work.entries.insert(work.entries.end(), entries.begin(), entries.end());
      if (num_lists > 1) work.lists_by_head.push_back({begin, static_cast<int64_t>(entries.size())});
    }
    const int64_t left_window = random_.OneIn(2) ? kernels::kNoLeftWindow : random_.Integer(1, context);
    work.tiles = Tiles(random_.Integer(0, context - 1), context, left_window, random_.OneIn(2), &random_);
    return work;
  }

  std::unique_ptr<Backend> cpu_, cuda_;
  Random random_;
};

TEST_F(CudaPrefillAttentionTest, MatchesTheCpuOnRandomLists) {
  for (int trial = 0; trial < kTrials && !HasFatalFailure(); ++trial) {
    const AttentionScene scene(FastShape(&random_), &random_);
    ExpectMatchesCpu(scene, RandomWork(scene));
  }
}

TEST_F(CudaPrefillAttentionTest, MatchesTheCpuThroughBlockMasks) {
  for (int trial = 0; trial < kTrials && !HasFatalFailure(); ++trial) {
    const AttentionScene scene(FastShape(&random_), &random_);
    AttentionWork work = RandomWork(scene);
    KeepRandomBlocks(scene, &work, &random_);
    ExpectMatchesCpu(scene, work);
  }
}

TEST_F(CudaPrefillAttentionTest, MatchesTheCpuOnAChunkAtDepthAndOnOneQuery) {
  for (const int64_t num_queries : {1, 5, 33, 128, 300}) {
    kernels::SceneShape shape = FastShape(&random_);
    shape.context_tokens = random_.Integer(1200, 1500);
    const AttentionScene scene(shape, &random_);
    AttentionWork work = {.entries = scene.Entries(0, shape.context_tokens)};
    work.tiles =
        Tiles(shape.context_tokens - num_queries, shape.context_tokens, kernels::kNoLeftWindow, false, &random_);
    ExpectMatchesCpu(scene, work);
    if (HasFatalFailure()) return;
  }
}

TEST_F(CudaPrefillAttentionTest, ATileIsTheSameAloneAndInABatch) {
  for (int trial = 0; trial < kTrials; ++trial) {
    const AttentionScene scene(FastShape(&random_), &random_);
    AttentionWork work = RandomWork(scene);
    const AttentionResult batch = RunCuda(scene, work);
    const int64_t row_floats = scene.num_heads() * scene.shape().head_dim;
    const std::vector<PrefillTile> tiles = work.tiles;
    for (const PrefillTile& tile : tiles) {
      work.tiles = {tile};
      const AttentionResult alone = RunCuda(scene, work);
      const int64_t begin = tile.row * row_floats, end = begin + tile.num_queries * row_floats;
      ASSERT_TRUE(kernels::SameBits({alone.out.begin() + begin, alone.out.begin() + end},
                                    {batch.out.begin() + begin, batch.out.begin() + end}));
    }
  }
}

TEST_F(CudaPrefillAttentionTest, AQueryIsTheSameWhateverTilesAreCutThroughItsChunk) {
  for (int trial = 0; trial < kTrials; ++trial) {
    const AttentionScene scene(FastShape(&random_), &random_);
    AttentionWork work = RandomWork(scene);
    const AttentionResult before = RunCuda(scene, work);
    work.tiles =
        Tiles(work.tiles[0].first_position, scene.shape().context_tokens, work.tiles[0].left_window, true, &random_);
    ASSERT_TRUE(RunCuda(scene, work) == before);
  }
}

TEST_F(CudaPrefillAttentionTest, AQueryThatSeesNothingIsZeroWithLseMinusInfinity) {
  kernels::SceneShape shape = FastShape(&random_);
  shape.context_tokens = 40;
  const AttentionScene scene(shape, &random_);
  const AttentionWork work = {.tiles = {{0, 2, 0, kernels::kNoLeftWindow}}, .entries = scene.Entries(1, 40)};
  const AttentionResult result = RunCuda(scene, work);
  for (int64_t i = 0; i < scene.num_heads() * shape.head_dim; ++i) ASSERT_EQ(result.out[Index(i)], 0.0f);
  for (int64_t head = 0; head < scene.num_heads(); ++head) {
    ASSERT_EQ(result.lse[Index(head)], -std::numeric_limits<float>::infinity());
    ASSERT_TRUE(std::isfinite(result.lse[Index(scene.num_heads() + head)]));
  }
}

TEST_F(CudaPrefillAttentionTest, APageOfNanInTheListShowsInEveryChannel) {
  kernels::SceneShape shape = FastShape(&random_);
  shape.context_tokens = 2 * shape.page_tokens;
  const AttentionScene scene(shape, &random_);
  const int64_t query = shape.context_tokens - 1;
  AttentionWork work = {.tiles = {{query, 1, query, kernels::kNoLeftWindow}}, .entries = scene.Entries(0, query + 1)};
  work.entries[0].page = scene.page(2);  // nobody's
  const AttentionResult result = RunCuda(scene, work);
  for (size_t i = Index(query * scene.num_heads() * shape.head_dim); i < result.out.size(); ++i) {
    ASSERT_TRUE(std::isnan(result.out[i])) << i;
  }
}

}  // namespace
}  // namespace farspan
