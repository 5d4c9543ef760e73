// SPDX-License-Identifier: Apache-2.0
// Prefill attention of many tiles and of lists that differ by head, and a NaN that is read, as the backend runs it
// (Hopper's kernel on Hopper), against the portable CPU kernel.
#include <gtest/gtest.h>

#include <cmath>

#include "engine/backend/cpu_backend.h"
#include "engine/backend/cuda_backend.h"
#include "tests/parity/device_scene.h"

namespace farspan {
namespace {

using kernels::AttentionScene;
using kernels::kNan;
using kernels::KvEntry;

class CudaPrefillScheduleTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto cuda = CudaBackend::Create(0);
    if (!cuda.ok()) GTEST_SKIP() << cuda.status().message();
    cuda_ = *std::move(cuda);
    cpu_ = *CpuBackend::Create({.isa = CpuIsa::kAuto, .num_threads = 4});
  }

  kernels::SceneShape Shape(int64_t context_tokens) {
    constexpr kernels::KvElement kElements[] = {kernels::KvElement::kBf16, kernels::KvElement::kF16,
                                                kernels::KvElement::kF8E4M3};
    const int64_t head_dim = random_.OneIn(2) ? 64 : 128;
    return {.num_kv_heads = random_.Integer(1, 3),
            .group = random_.Integer(1, 3),
            .head_dim = head_dim,
            .rope_dim = head_dim,
            .page_tokens = int64_t{16} << random_.Integer(0, 2),
            .context_tokens = context_tokens,
            .element = random_.OneOf<kernels::KvElement>(kElements)};
  }

  struct Work {
    std::vector<kernels::PrefillTile> tiles;
    std::vector<KvEntry> entries;
    std::vector<kernels::KvList> lists;  // [tiles][num_heads]
  };

  // [context][num_heads][head_dim], NaN where nothing was written.
  static std::vector<float> Run(Backend& backend, const AttentionScene& scene, const Work& work) {
    DeviceArrays arrays(&backend);
    const auto rows = static_cast<size_t>(scene.shape().context_tokens);
    const size_t size = rows * static_cast<size_t>(scene.num_heads() * scene.shape().head_dim);
    kernels::AttentionCommon common = scene.Common(work.entries, nullptr, nullptr);
    const float* const q = common.q_f32();
    const float* const rotations = common.rope_cos_sin;
    common = OnDevice(common, work.entries, &arrays);
    common.q = arrays.PutActivations(RoundedToBf16(std::vector<float>(q, q + size)));
    common.rope_cos_sin =
        arrays.Put(std::vector<float>(rotations, rotations + rows * static_cast<size_t>(common.rope_dim)));
    common.out = arrays.PutActivations(std::vector<float>(size, kNan));
    common.activation = backend.activation();
    backend.PrefillAttention({.common = common,
                              .tiles = arrays.Put(work.tiles),
                              .lists = arrays.Put(work.lists),
                              .num_tiles = static_cast<int64_t>(work.tiles.size())});
    return arrays.GetActivations(common.out, size);
  }

  void ExpectTheCpus(const AttentionScene& scene, const Work& work) {
    const std::vector<float> want = Run(*cpu_, scene, work), got = Run(*cuda_, scene, work);
    for (size_t i = 0; i < want.size(); ++i) {
      if (std::isnan(want[i])) {
        ASSERT_TRUE(std::isnan(got[i])) << "at " << i;
      } else {
        ASSERT_NEAR(got[i], want[i], 0.02 * (1 + std::fabs(want[i]))) << "at " << i;
      }
    }
  }

  std::unique_ptr<Backend> cuda_;
  std::unique_ptr<Backend> cpu_;
  kernels::Random random_;
};

// More tiles than are put in order, so that heads are taken in sections by their number alone.
TEST_F(CudaPrefillScheduleTest, MoreTilesThanAreOrdered) {
  for (int trial = 0; trial < 3; ++trial) {
    const AttentionScene scene(Shape(random_.Integer(1100, 1500)), &random_);
    const int64_t context = scene.shape().context_tokens;
    Work work = {.entries = scene.Entries(0, context)};
    for (int64_t position = 0; position < context;) {
      const int64_t in_tile = kernels::kPrefillTileQueries - position % kernels::kPrefillTileQueries;
      const int64_t num_queries = random_.OneIn(40) ? random_.Integer(1, in_tile) : 1;
      work.tiles.push_back({.row = position,
                            .num_queries = std::min(num_queries, context - position),
                            .first_position = position,
                            .left_window = random_.OneIn(2) ? kernels::kNoLeftWindow : random_.Integer(1, 300)});
      position += work.tiles.back().num_queries;
    }
    work.lists.assign(work.tiles.size() * static_cast<size_t>(scene.num_heads()),
                      {0, static_cast<int64_t>(work.entries.size())});
    ExpectTheCpus(scene, work);
    if (HasFatalFailure()) return;
  }
}

TEST_F(CudaPrefillScheduleTest, ListsThatDifferByHead) {
  for (int trial = 0; trial < 12; ++trial) {
    const AttentionScene scene(Shape(random_.Integer(1, 900)), &random_);
    const int64_t context = scene.shape().context_tokens;
    Work work = {.tiles = kernels::RandomTiles(0, context, kernels::kNoLeftWindow, &random_)};
    for (size_t list = 0; list < work.tiles.size() * static_cast<size_t>(scene.num_heads()); ++list) {
      std::vector<KvEntry> entries = random_.OneIn(6) ? std::vector<KvEntry>() : scene.RandomEntries(context, &random_);
      work.lists.push_back({static_cast<int64_t>(work.entries.size()), static_cast<int64_t>(entries.size())});
      work.entries.insert(work.entries.end(), entries.begin(), entries.end());
    }
    ExpectTheCpus(scene, work);
    if (HasFatalFailure()) return;
  }
}

// A page that nobody owns holds NaN: who reads it shows it in every channel, and no tile does that does not read it.
TEST_F(CudaPrefillScheduleTest, ANanThatARowReadsShows) {
  for (int trial = 0; trial < 6; ++trial) {
    const AttentionScene scene(Shape(random_.Integer(200, 500)), &random_);
    const int64_t context = scene.shape().context_tokens, pages = context / scene.shape().page_tokens;
    Work work = {.tiles = kernels::RandomTiles(0, context, kernels::kNoLeftWindow, &random_),
                 .entries = scene.Entries(0, context)};
    const auto broken = static_cast<size_t>(random_.Integer(0, pages - 1));
    work.entries[broken].page = scene.page(static_cast<int64_t>(work.entries.size()));  // beyond the context's
    work.lists.assign(work.tiles.size() * static_cast<size_t>(scene.num_heads()),
                      {0, static_cast<int64_t>(work.entries.size())});
    const std::vector<float> got = Run(*cuda_, scene, work);
    const int64_t row_size = scene.num_heads() * scene.shape().head_dim, first = work.entries[broken].position;
    for (const kernels::PrefillTile& tile : work.tiles) {
      const int64_t end = tile.first_position + tile.num_queries;
      for (int64_t position = tile.first_position; position < end; ++position) {
        if (position < first && end > first) continue;  // beside queries that read it
        for (int64_t i = position * row_size; i < (position + 1) * row_size; ++i) {
          ASSERT_EQ(std::isnan(got[static_cast<size_t>(i)]), position >= first) << "row " << position;
        }
      }
    }
  }
}

}  // namespace
}  // namespace farspan
