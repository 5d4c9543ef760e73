// SPDX-License-Identifier: Apache-2.0
#include "engine/model/block_selection.h"

#include <gtest/gtest.h>

#include <cstring>

#include "engine/backend/cpu_backend.h"
#include "tests/support/status_matchers.h"

namespace farspan {
namespace {

constexpr int64_t kPageTokens = 16, kPages = 4, kHeadDim = 8;

const ModelShape kShape = {.num_layers = 1,
                           .num_heads = 1,
                           .num_kv_heads = 1,
                           .head_dim = kHeadDim,
                           .max_context_tokens = kPages * kPageTokens,
                           .vocab_size = 8,
                           .page_tokens = kPageTokens};

// A row that picks one of all pages' blocks; its context is the batch's first entries, its slot the one after.
ForwardBatch OneChoice() {
  ForwardBatch batch;
  for (int32_t page = 0; page < kPages; ++page) {
    batch.entries.push_back({.page = page, .num_valid = kPageTokens, .position = page * kPageTokens});
  }
  batch.entries.resize(kPages + 1);
  batch.selector_rows.push_back({.row = 0,
                                 .decode_row = 0,
                                 .context = {0, kPages},
                                 .leading = {0, 0},
                                 .trailing = {0, 0},
                                 .score = kernels::BlockScore::kKeyBounds,
                                 .reduction = kernels::ScoreReduction::kRawSum,
                                 .block_tokens = kPageTokens,
                                 .num_blocks = kPages,
                                 .first_candidate = 0,
                                 .num_candidates = kPages,
                                 .num_picked = 1,
                                 .slots_begin = kPages,
                                 .dense_layers = {}});
  batch.decode_lists.push_back({0, kPages});
  return batch;
}

// Rows of a replay that its policy planned as dense complete runs too: there are more of these than rows that choose.
TEST(BlockSelectionTest, BoundsAreFilledHoweverFewRowsChoose) {
  const auto backend = *CpuBackend::Create({.isa = CpuIsa::kPortable});
  const auto kv = *KvCache::Create(kShape, kPages, backend.get(), PlanFeatures::kKeyBoundsSelector);
  const kernels::KvLayerView layer = kv->layer(0);
  backend->FillRandom({.data = layer.data,
                       .format = kernels::RandomFormat::kBf16,
                       .num_values = kPages * layer.page_elements(),
                       .key = 7,
                       .exponent = 0});
  ForwardBatch batch = OneChoice();
  for (int64_t position = 0; position < kPages * kPageTokens; ++position) {
    batch.kv_slots.push_back(
        {static_cast<int32_t>(position / kPageTokens), static_cast<int32_t>(position % kPageTokens)});
  }
  const std::vector<float> q(kHeadDim, 1.0f);

  BlockSelection selection(backend.get());
  selection.Begin(batch, 0, kv.get());
  selection.FillEarlier(1, *kv);
  selection.Choose(
      {.layer = 0, .q = q.data(), .num_heads = 1, .entries = batch.entries.data(), .lists = batch.decode_lists.data()},
      *kv);
  ASSERT_THAT(backend->Wait(backend->Submit()), IsOk());

  const auto expected = *KvCache::Create(kShape, kPages, backend.get(), PlanFeatures::kKeyBoundsSelector);
  std::vector<kernels::KeyRun> runs;
  for (int32_t page = 0; page < kPages; ++page) runs.push_back({.page = page, .run = 0});
  backend->FillKeyBounds({.cache = layer, .bounds = expected->key_bounds(0), .runs = runs.data(), .num_runs = kPages});
  EXPECT_EQ(std::memcmp(kv->key_bounds(0).data, expected->key_bounds(0).data,
                        static_cast<size_t>(kPages * kv->side_data_bytes_per_page())),
            0);
  EXPECT_EQ(batch.decode_lists[0].entries_begin, kPages);
  EXPECT_EQ(batch.decode_lists[0].num_entries, 1);
}

TEST(BlockSelectionTest, BlocksOfATableAreLookedAtOnce) {
  const auto backend = *CpuBackend::Create({.isa = CpuIsa::kPortable});
  const auto kv = *KvCache::Create(kShape, kPages, backend.get(), PlanFeatures::kKeyBoundsSelector);
  BlockSelection selection(backend.get());
  ForwardBatch batch = OneChoice();
  batch.selector_tables = {7};
  batch.selector_rows[0].num_blocks = kPages - 1;
  const auto is_stale_after = [&](int32_t page) {
    selection.Begin(batch, 0, kv.get());
    EXPECT_THAT(backend->Wait(backend->Submit()), IsOk());
    return kv->TakeStaleKeyBounds({.page = page, .run = 0});
  };
  EXPECT_TRUE(is_stale_after(kPages - 1)) << "not among the blocks yet";
  EXPECT_FALSE(is_stale_after(0));

  const auto grow = [&] {
    kv->MarkWritten(PageId{0}, 0);
    kv->MarkWritten(PageId{kPages - 1}, 0);
    batch.selector_rows[0].num_blocks = kPages;
  };
  grow();
  EXPECT_FALSE(is_stale_after(kPages - 1)) << "a block that came";
  EXPECT_TRUE(kv->TakeStaleKeyBounds({.page = 0, .run = 0})) << "one that was there, in a table that says it stands";

  grow();
  batch.selector_tables = {8};
  EXPECT_FALSE(is_stale_after(0)) << "another table";
  grow();
  selection.Abandon(selection.TakenRuns(), kv.get());
  EXPECT_FALSE(is_stale_after(0)) << "after a pass that failed";
  grow();
  batch.selector_tables.clear();
  EXPECT_FALSE(is_stale_after(0)) << "a context of no table";
}

}  // namespace
}  // namespace farspan
