// SPDX-License-Identifier: Apache-2.0
// Decode and prefill attention of every ISA level: right against float64, and the same bits however the work is cut.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/engine/kernels/attention_scene.h"

namespace farspan::kernels {
namespace {

constexpr int kTrials = 12;
constexpr double kTolerance = 2e-5;

size_t Index(int64_t i) { return static_cast<size_t>(i); }

int64_t RandomLeftWindow(const AttentionScene& scene, Random* random) {
  return random->OneIn(2) ? kNoLeftWindow : random->Integer(1, scene.shape().context_tokens);
}

void ExpectMatchesReference(const AttentionScene& scene, const std::vector<KvEntry>& entries, int64_t position,
                            int64_t head, int64_t left_window, const AttentionResult& result) {
  const int64_t head_dim = scene.shape().head_dim, index = position * scene.num_heads() + head;
  const std::vector<double> expected = scene.Reference(entries, position, head, left_window);
  for (int64_t d = 0; d < head_dim; ++d) {
    ASSERT_NEAR(result.out[Index(index * head_dim + d)], expected[Index(d)], kTolerance)
        << "position " << position << " head " << head << " channel " << d;
  }
  const double lse = expected[Index(head_dim)];
  if (std::isinf(lse)) {
    ASSERT_EQ(result.lse[Index(index)], lse);
  } else {
    ASSERT_NEAR(result.lse[Index(index)], lse, kTolerance) << "position " << position << " head " << head;
  }
}

TEST(DecodeAttentionTest, MatchesFloat64OnRandomLists) {
  Random random;
  for (const KernelTable* level : KernelLevels()) {
    SCOPED_TRACE(level->name);
    for (int trial = 0; trial < kTrials; ++trial) {
      const AttentionScene scene(RandomShape(&random, kAllKvElements), &random);
      AttentionWork work;
      work.entries = scene.RandomEntries(scene.shape().context_tokens, &random);
      work.left_window = RandomLeftWindow(scene, &random);
      for (int64_t row = 0; row < 4; ++row)
        work.positions.push_back(random.Integer(0, scene.shape().context_tokens - 1));
      const AttentionResult result = RunDecode(*level, scene, work, &random);
      for (const int64_t position : work.positions) {
        for (int64_t head = 0; head < scene.num_heads(); ++head) {
          ExpectMatchesReference(scene, work.entries, position, head, work.left_window, result);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST(PrefillAttentionTest, MatchesFloat64OnRandomLists) {
  Random random;
  for (const KernelTable* level : KernelLevels()) {
    SCOPED_TRACE(level->name);
    for (int trial = 0; trial < kTrials; ++trial) {
      const AttentionScene scene(RandomShape(&random, kAllKvElements), &random);
      const int64_t context = scene.shape().context_tokens, left_window = RandomLeftWindow(scene, &random);
      AttentionWork work;
      work.entries = scene.RandomEntries(context, &random);
      work.tiles = RandomTiles(random.Integer(0, context - 1), context, left_window, &random);
      const AttentionResult result = RunPrefill(*level, scene, work, &random);
      for (int64_t position = work.tiles[0].first_position; position < context; position += random.Integer(1, 9)) {
        const int64_t head = random.Integer(0, scene.num_heads() - 1);
        ExpectMatchesReference(scene, work.entries, position, head, left_window, result);
        if (HasFatalFailure()) return;
      }
    }
  }
}

// What each property test runs on: one random scene, both phases.
struct Case {
  explicit Case(Random* random) : scene(RandomShape(random, kAllKvElements), random) {
    const int64_t context = scene.shape().context_tokens;
    decode.entries = prefill.entries = scene.RandomEntries(context, random);
    decode.left_window = RandomLeftWindow(scene, random);
    for (int64_t row = 0; row < 3; ++row) decode.positions.push_back(random->Integer(0, context - 1));
    std::sort(decode.positions.begin(), decode.positions.end());
    decode.positions.erase(std::unique(decode.positions.begin(), decode.positions.end()), decode.positions.end());
    first_query = random->Integer(0, context - 1);
    prefill.tiles = RandomTiles(first_query, context, decode.left_window, random);
  }

  AttentionScene scene;
  AttentionWork decode;
  AttentionWork prefill;
  int64_t first_query = 0;
};

template <typename Check>
void ForRandomCases(const Check& check) {
  Random random;
  for (const KernelTable* level : KernelLevels()) {
    SCOPED_TRACE(level->name);
    for (int trial = 0; trial < kTrials; ++trial) {
      Case test_case(&random);
      check(*level, &test_case, &random);
      if (::testing::Test::HasFailure()) return;
    }
  }
}

TEST(AttentionTest, ResultDoesNotDependOnHowPagesAreCutIntoEntries) {
  ForRandomCases([](const KernelTable& level, Case* c, Random* random) {
    const AttentionResult decode = RunDecode(level, c->scene, c->decode, random);
    const AttentionResult prefill = RunPrefill(level, c->scene, c->prefill, random);
    c->decode.entries = c->prefill.entries = CutEntries(c->decode.entries, random);
    EXPECT_TRUE(RunDecode(level, c->scene, c->decode, random) == decode);
    EXPECT_TRUE(RunPrefill(level, c->scene, c->prefill, random) == prefill);
  });
}

TEST(AttentionTest, ResultDoesNotDependOnWherePagesLie) {
  ForRandomCases([](const KernelTable& level, Case* c, Random* random) {
    const AttentionResult decode = RunDecode(level, c->scene, c->decode, random);
    const AttentionResult prefill = RunPrefill(level, c->scene, c->prefill, random);
    c->scene.MovePages(random);
    for (KvEntry& entry : c->decode.entries) entry.page = c->scene.page(entry.position / c->scene.shape().page_tokens);
    c->prefill.entries = c->decode.entries;
    EXPECT_TRUE(RunDecode(level, c->scene, c->decode, random) == decode);
    EXPECT_TRUE(RunPrefill(level, c->scene, c->prefill, random) == prefill);
  });
}

TEST(DecodeAttentionTest, RowIsTheSameAloneAndInABatch) {
  ForRandomCases([](const KernelTable& level, Case* c, Random* random) {
    const AttentionResult batch = RunDecode(level, c->scene, c->decode, random);
    const int64_t row_floats = c->scene.num_heads() * c->scene.shape().head_dim;
    for (const int64_t position : c->decode.positions) {
      AttentionWork alone = c->decode;
      alone.positions = {position};
      const AttentionResult result = RunDecode(level, c->scene, alone, random);
      const auto begin = result.out.begin() + position * row_floats;
      const auto batch_begin = batch.out.begin() + position * row_floats;
      EXPECT_TRUE(SameBits({begin, begin + row_floats}, {batch_begin, batch_begin + row_floats}));
    }
  });
}

TEST(PrefillAttentionTest, ResultDoesNotDependOnTiles) {
  ForRandomCases([](const KernelTable& level, Case* c, Random* random) {
    const AttentionResult before = RunPrefill(level, c->scene, c->prefill, random);
    c->prefill.tiles = RandomTiles(c->first_query, c->scene.shape().context_tokens, c->decode.left_window, random);
    EXPECT_TRUE(RunPrefill(level, c->scene, c->prefill, random) == before);
    c->prefill.tiles.clear();
    for (int64_t query = c->first_query; query < c->scene.shape().context_tokens; ++query) {
      c->prefill.tiles.push_back({query, 1, query, c->decode.left_window});
    }
    EXPECT_TRUE(RunPrefill(level, c->scene, c->prefill, random) == before);
  });
}

TEST(AttentionTest, EqualListsInOtherPlacesGiveTheSameBits) {
  ForRandomCases([](const KernelTable& level, Case* c, Random* random) {
    const AttentionResult decode = RunDecode(level, c->scene, c->decode, random);
    const AttentionResult prefill = RunPrefill(level, c->scene, c->prefill, random);
    const std::vector<KvEntry> original = c->decode.entries;
    const int64_t num_entries = static_cast<int64_t>(original.size());
    std::vector<KvEntry> copies;
    for (int64_t head = 0; head < c->scene.num_heads(); ++head) {
      copies.insert(copies.end(), original.begin(), original.end());
      c->prefill.lists_by_head.push_back({head * num_entries, num_entries});
    }
    c->decode.entries = c->prefill.entries = copies;
    c->decode.lists_by_head.assign(c->prefill.lists_by_head.begin(),
                                   c->prefill.lists_by_head.begin() + c->scene.shape().num_kv_heads);
    EXPECT_TRUE(RunDecode(level, c->scene, c->decode, random) == decode);
    EXPECT_TRUE(RunPrefill(level, c->scene, c->prefill, random) == prefill);
  });
}

TEST(AttentionTest, HeadsWithTheirOwnListsEqualHeadMasksOverOneList) {
  ForRandomCases([](const KernelTable& level, Case* c, Random* random) {
    const AttentionResult prefill = RunPrefill(level, c->scene, c->prefill, random);
    const std::vector<KvEntry> original = c->prefill.entries;
    c->prefill.entries.clear();
    for (int64_t head = 0; head < c->scene.num_heads(); ++head) {
      const int64_t begin = static_cast<int64_t>(c->prefill.entries.size());
      for (KvEntry entry : original) {
        if ((entry.head_mask >> (head % c->scene.shape().group) & 1) == 0) continue;
        entry.head_mask = kAllHeads;
        c->prefill.entries.push_back(entry);
      }
      c->prefill.lists_by_head.push_back({begin, static_cast<int64_t>(c->prefill.entries.size()) - begin});
    }
    EXPECT_TRUE(RunPrefill(level, c->scene, c->prefill, random) == prefill);
  });
}

TEST(PrefillAttentionTest, ABlockMaskEqualsListsOfTheKeptBlocks) {
  ForRandomCases([](const KernelTable& level, Case* c, Random* random) {
    c->prefill.entries = CutEntries(c->prefill.entries, random);
    const int64_t num_entries = static_cast<int64_t>(c->prefill.entries.size());
    const int64_t block_entries = MaskBlockEntries(c->scene.shape().page_tokens);
    KeepRandomBlocks(c->scene, &c->prefill, random);
    const AttentionResult masked = RunPrefill(level, c->scene, c->prefill, random);
    const int64_t row_floats = c->scene.num_heads() * c->scene.shape().head_dim;
    for (size_t tile = 0; tile < c->prefill.tiles.size(); ++tile) {
      AttentionWork kept = {.tiles = {c->prefill.tiles[tile]}};
      for (int64_t head = 0; head < c->scene.num_heads(); ++head) {
        const int64_t begin = static_cast<int64_t>(kept.entries.size());
        const BlockRange range = c->prefill.kept_ranges[tile * Index(c->scene.num_heads()) + Index(head)];
        const int64_t num_blocks = (num_entries + block_entries - 1) / block_entries;
        for (int64_t i = 0; i < (range.num_blocks == kAllBlocks ? num_blocks : range.num_blocks); ++i) {
          const int64_t block = range.num_blocks == kAllBlocks ? i : c->prefill.kept_blocks[Index(range.begin + i)];
          const int64_t end = std::min(num_entries, (block + 1) * block_entries);
          kept.entries.insert(kept.entries.end(), c->prefill.entries.begin() + block * block_entries,
                              c->prefill.entries.begin() + end);
        }
        kept.lists_by_head.push_back({begin, static_cast<int64_t>(kept.entries.size()) - begin});
      }
      const AttentionResult expected = RunPrefill(level, c->scene, kept, random);
      const int64_t first = kept.tiles[0].row * row_floats, size = kept.tiles[0].num_queries * row_floats;
      for (int64_t i = first; i < first + size; ++i) {
        ASSERT_NEAR(masked.out[Index(i)], expected.out[Index(i)], kTolerance);
      }
    }
  });
}

TEST(AttentionTest, CapsAndWindowsThatCoverTheContextEqualDense) {
  ForRandomCases([](const KernelTable& level, Case* c, Random* random) {
    const int64_t context = c->scene.shape().context_tokens;
    c->decode.entries = c->prefill.entries = c->scene.Entries(0, context);
    c->decode.left_window = kNoLeftWindow;
    for (PrefillTile& tile : c->prefill.tiles) tile.left_window = kNoLeftWindow;
    const AttentionResult decode = RunDecode(level, c->scene, c->decode, random);
    const AttentionResult prefill = RunPrefill(level, c->scene, c->prefill, random);

    const int64_t sinks = random->Integer(0, context);
    std::vector<KvEntry> window = c->scene.Entries(0, sinks);
    for (KvEntry& entry : window) {
      entry.query_cap = context - 1;
      entry.ignores_left_window = true;
    }
    for (const KvEntry& entry : c->scene.Entries(sinks, context)) window.push_back(entry);
    c->decode.entries = c->prefill.entries = window;
    c->decode.left_window = std::max<int64_t>(1, context - sinks);
    for (PrefillTile& tile : c->prefill.tiles) tile.left_window = c->decode.left_window;
    EXPECT_TRUE(RunDecode(level, c->scene, c->decode, random) == decode);
    EXPECT_TRUE(RunPrefill(level, c->scene, c->prefill, random) == prefill);
  });
}

TEST(PrefillAttentionTest, PagesOutOfSightAreExactlyNothing) {
  ForRandomCases([](const KernelTable& level, Case* c, Random* random) {
    const int64_t context = c->scene.shape().context_tokens, page_tokens = c->scene.shape().page_tokens;
    const int64_t query = context - 1, left_window = random->Integer(1, context);
    c->prefill.tiles = {{query, 1, query, left_window}};
    c->prefill.entries = c->scene.Entries(0, context);
    const AttentionResult with_pages = RunPrefill(level, c->scene, c->prefill, random);
    const int64_t first_page = std::max<int64_t>(0, query - left_window + 1) / page_tokens;
    c->prefill.entries = c->scene.Entries(first_page * page_tokens, context);
    EXPECT_TRUE(RunPrefill(level, c->scene, c->prefill, random) == with_pages);
  });
}

TEST(AttentionTest, TurningTheQueryEqualsMovingTheKeys) {
  Random random;
  for (const KernelTable* level : KernelLevels()) {
    SCOPED_TRACE(level->name);
    for (int trial = 0; trial < kTrials; ++trial) {
      SceneShape shape = RandomShape(&random, kAllKvElements);
      shape.element = KvElement::kF32;
      AttentionScene scene(shape, &random);
      const int64_t position = shape.context_tokens - 1, sinks = random.Integer(1, shape.context_tokens);
      const int64_t cap = random.Integer(sinks - 1, position);
      AttentionWork work;
      work.positions = {position};
      work.tiles = {{position, 1, position, kNoLeftWindow}};
      work.entries = scene.Entries(0, shape.context_tokens);
      work.entries = CutEntries(scene.Entries(0, sinks), &random);
      for (KvEntry& entry : work.entries) entry.query_cap = cap;
      for (const KvEntry& entry : scene.Entries(sinks, shape.context_tokens)) work.entries.push_back(entry);
      const AttentionResult decode = RunDecode(*level, scene, work, &random);
      const AttentionResult prefill = RunPrefill(*level, scene, work, &random);

      for (int64_t key = 0; key < sinks; ++key) scene.TurnKey(key, position - cap);
      for (KvEntry& entry : work.entries) entry.query_cap = kNoQueryCap;
      const AttentionResult moved = RunDecode(*level, scene, work, &random);
      const size_t begin = moved.out.size() - Index(scene.num_heads() * shape.head_dim);
      for (size_t i = begin; i < moved.out.size(); ++i) {
        ASSERT_NEAR(decode.out[i], moved.out[i], 1e-5);
        ASSERT_NEAR(prefill.out[i], moved.out[i], 1e-5);
      }
    }
  }
}

TEST(AttentionTest, QueryThatSeesNothingIsZeroWithLseMinusInfinity) {
  ForRandomCases([](const KernelTable& level, Case* c, Random* random) {
    if (c->scene.shape().context_tokens < 2) return;
    const int64_t context = c->scene.shape().context_tokens;
    c->decode.entries = c->prefill.entries = c->scene.Entries(1, context);
    c->decode.positions = {0};
    c->prefill.tiles = {{0, 1, 0, kNoLeftWindow}};
    for (const AttentionResult& result :
         {RunDecode(level, c->scene, c->decode, random), RunPrefill(level, c->scene, c->prefill, random)}) {
      for (int64_t i = 0; i < c->scene.num_heads() * c->scene.shape().head_dim; ++i) {
        ASSERT_EQ(result.out[Index(i)], 0.0f);
      }
      for (int64_t head = 0; head < c->scene.num_heads(); ++head) {
        ASSERT_EQ(result.lse[Index(head)], -std::numeric_limits<float>::infinity());
      }
    }
  });
}

TEST(AttentionTest, APageOfNanInTheListShowsInEveryChannel) {
  Random random;
  SceneShape shape;
  shape.context_tokens = 2 * shape.page_tokens;
  for (const KvElement element : kAllKvElements) {
    shape.element = element;
    const AttentionScene scene(shape, &random);
    const int64_t query = shape.context_tokens - 1;
    AttentionWork work;
    work.positions = {query};
    work.tiles = {{query, 1, query, kNoLeftWindow}};
    work.entries = scene.Entries(0, shape.context_tokens);
    work.entries[0].page = scene.page(2);  // nobody's
    for (const KernelTable* level : KernelLevels()) {
      SCOPED_TRACE(level->name);
      for (const AttentionResult& result :
           {RunDecode(*level, scene, work, &random), RunPrefill(*level, scene, work, &random)}) {
        for (size_t i = Index(query * scene.num_heads() * shape.head_dim); i < result.out.size(); ++i) {
          ASSERT_TRUE(std::isnan(result.out[i])) << i;
        }
      }
    }
  }
}

TEST(DecodeAttentionTest, LongListsAreCutBySixteenPagesOfTheRowAlone) {
  Random random;
  SceneShape shape;
  shape.page_tokens = 8;
  shape.context_tokens = 8 * (2 * kDecodeSplitPages + 1);
  const AttentionScene scene(shape, &random);
  const std::vector<KvEntry> entries = CutEntries(scene.Entries(0, shape.context_tokens), &random);
  const DecodeRow row = {.row = 0, .position = shape.context_tokens - 1, .left_window = kNoLeftWindow};
  const KvList whole = {0, static_cast<int64_t>(entries.size())};
  const KvList lists[] = {whole, {0, 1}};
  const DecodeAttentionArgs args = {scene.Common(entries, nullptr, nullptr), &row, lists, 1};
  DecodeSplits splits;
  PlanDecodeSplits(args, &splits);
  ASSERT_EQ(splits.splits.size(), 4u);
  EXPECT_EQ(splits.first_split, (std::vector<int64_t>{0, 3, 4}));
  int64_t next_entry = 0;
  for (int64_t split = 0; split < 3; ++split) {
    const KvList list = splits.splits[Index(split)].list;
    EXPECT_EQ(list.entries_begin, next_entry);
    EXPECT_EQ(entries[Index(next_entry)].position, split * kDecodeSplitPages * shape.page_tokens);
    next_entry += list.num_entries;
  }
  EXPECT_EQ(next_entry, whole.num_entries);
}

}  // namespace
}  // namespace farspan::kernels
