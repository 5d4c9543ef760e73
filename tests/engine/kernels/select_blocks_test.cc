// SPDX-License-Identifier: Apache-2.0
// Key bounds and the choice of blocks at every ISA level, against float64 loops that share nothing with the kernels.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "tests/engine/kernels/choice_scene.h"

namespace farspan::kernels {
namespace {

// The candidates that a list reads, each checked to be read whole, between the leading and the trailing entry.
std::set<int64_t> BlocksOf(const ChoiceScene& scene, const SelectorRow& row, const std::vector<KvEntry>& list) {
  std::set<int64_t> tokens;
  int64_t previous_end = 0;
  for (const KvEntry& entry : list) {
    EXPECT_GE(entry.position, previous_end);
    EXPECT_EQ(entry.page, scene.PageOf(entry.position));
    EXPECT_EQ(entry.first_valid, entry.position % scene.shape().page_tokens);
    EXPECT_EQ(entry.query_cap, kNoQueryCap);
    previous_end = entry.position + entry.num_valid;
    for (int64_t token = entry.position; token < previous_end; ++token) tokens.insert(token);
  }
  EXPECT_EQ(*tokens.begin(), 0);
  EXPECT_EQ(*tokens.rbegin(), scene.shape().context_tokens - 1);
  EXPECT_EQ(static_cast<int64_t>(tokens.size()), row.num_picked * row.block_tokens + 2);
  std::set<int64_t> blocks;
  for (const int64_t token : tokens) {
    if (token == 0 || token == scene.shape().context_tokens - 1) continue;
    blocks.insert(token / row.block_tokens);
  }
  EXPECT_EQ(static_cast<int64_t>(blocks.size()), row.num_picked);
  return blocks;
}

// Every chosen block scores at least as high as every other candidate, up to what float32 can tell apart.
void ExpectHighest(const ChoiceScene& scene, const SelectorRow& row, int64_t kv_head, const std::set<int64_t>& chosen,
                   const char* level) {
  const std::vector<double> scores = scene.ExactScores(kv_head);
  double lowest_chosen = INFINITY, highest_other = -INFINITY;
  for (int64_t block = row.first_candidate; block < row.first_candidate + row.num_candidates; ++block) {
    if (chosen.count(block) != 0) {
      lowest_chosen = std::min(lowest_chosen, scores[ToIndex(block)]);
    } else {
      highest_other = std::max(highest_other, scores[ToIndex(block)]);
    }
  }
  const double rounding = 2e-6 * static_cast<double>(scene.shape().head_dim * scene.shape().group);
  EXPECT_GE(lowest_chosen, highest_other - rounding) << level;
}

// The extremes of a channel over the tokens [begin, end).
std::pair<float, float> Extremes(const ChoiceScene& scene, int64_t begin, int64_t end, int64_t head, int64_t channel) {
  float smallest = INFINITY, largest = -INFINITY;
  for (int64_t token = begin; token < end; ++token) {
    smallest = std::min(smallest, scene.Key(token, head, channel));
    largest = std::max(largest, scene.Key(token, head, channel));
  }
  return {smallest, largest};
}

TEST(KeyBoundsTest, AreTheExactExtremesOfEachChannel) {
  Random random;
  for (int round = 0; round < 20; ++round) {
    ChoiceScene scene(RandomChoiceShape(&random, kAllKvElements), &random);
    const int64_t filled = scene.row().num_blocks * scene.row().block_tokens, page_tokens = scene.shape().page_tokens;
    for (const KernelTable* level : KernelLevels()) {
      scene.Fill(*level, &random);
      for (int64_t head = 0; head < scene.shape().num_kv_heads; ++head) {
        for (int64_t i = 0; i < scene.shape().head_dim; ++i) {
          for (int64_t token = 0; token < filled; token += scene.run_tokens()) {
            const auto [smallest, largest] = Extremes(scene, token, token + scene.run_tokens(), head, i);
            ASSERT_EQ(scene.Bound(token, head, false, i), smallest) << level->name;
            ASSERT_EQ(scene.Bound(token, head, true, i), largest) << level->name;
          }
          for (int64_t token = 0; token + page_tokens <= filled; token += page_tokens) {
            const auto [smallest, largest] = Extremes(scene, token, token + page_tokens, head, i);
            ASSERT_EQ(scene.PageBound(token, head, false, i), smallest) << level->name;
            ASSERT_EQ(scene.PageBound(token, head, true, i), largest) << level->name;
          }
        }
      }
    }
  }
}

TEST(KeyBoundsTest, ANanKeyMakesItsChannelNan) {
  Random random;
  for (const KvElement element : kAllKvElements) {
    for (const KernelTable* level : KernelLevels()) {
      ChoiceScene scene({.element = element}, &random);
      const int64_t token = 32 + random.Integer(0, 15);
      scene.StoreKey(token, 1, 5, kNan);
      scene.Fill(*level, &random);
      EXPECT_TRUE(std::isnan(scene.Bound(32, 1, false, 5))) << level->name;
      EXPECT_TRUE(std::isnan(scene.Bound(32, 1, true, 5))) << level->name;
      EXPECT_FALSE(std::isnan(scene.Bound(32, 1, true, 6))) << level->name;
      EXPECT_FALSE(std::isnan(scene.Bound(48, 1, true, 5))) << level->name;
    }
  }
}

TEST(SelectBlocksTest, AScoreIsTheBoundAndNoDotProductExceedsIt) {
  Random random;
  for (int round = 0; round < 20; ++round) {
    ChoiceScene scene(RandomChoiceShape(&random, kAllKvElements), &random);
    for (const KernelTable* level : KernelLevels()) {
      scene.Fill(*level, &random);
      scene.Choose(*level, 0, &random);
      // Only the first KV head's scores lie at the front.
      for (int64_t head = 0; head < scene.shape().group; ++head) {
        for (int64_t block = 0; block < scene.row().num_blocks; ++block) {
          const double rounding = 1e-6 * 4 * static_cast<double>(scene.shape().head_dim);
          ASSERT_NEAR(scene.score(head, block), scene.ExactBound(head, block), rounding) << level->name;
          ASSERT_GE(scene.score(head, block), scene.LargestDot(head, block) - rounding) << level->name;
        }
      }
    }
  }
}

TEST(SelectBlocksTest, ChoosesTheHighestScoresOfEachKvHead) {
  Random random;
  for (int round = 0; round < 40; ++round) {
    ChoiceScene scene(RandomChoiceShape(&random, kAllKvElements), &random);
    for (const ScoreReduction reduction : {ScoreReduction::kSoftmaxSum, ScoreReduction::kRawSum}) {
      scene.row().reduction = reduction;
      for (const KernelTable* level : KernelLevels()) {
        scene.Fill(*level, &random);
        const auto lists = scene.Choose(*level, 3, &random);
        for (int64_t head = 0; head < scene.shape().num_kv_heads; ++head) {
          ExpectHighest(scene, scene.row(), head, BlocksOf(scene, scene.row(), lists[ToIndex(head)]), level->name);
        }
      }
    }
  }
}

TEST(SelectBlocksTest, FindsAPlantedNeedle) {
  Random random;
  for (int round = 0; round < 20; ++round) {
    ChoiceScene scene(RandomChoiceShape(&random, kAllKvElements), &random);
    scene.row().num_picked = 1;
    const int64_t needle = random.Integer(1, scene.row().num_candidates);
    const int64_t token = needle * scene.shape().block_tokens + random.Integer(0, scene.shape().block_tokens - 1);
    // One query head of each group asks for exactly this key, loudly.
    for (int64_t kv_head = 0; kv_head < scene.shape().num_kv_heads; ++kv_head) {
      for (int64_t i = 0; i < scene.shape().head_dim; ++i) {
        float& q = scene.q()[ToIndex(kv_head * scene.shape().group * scene.shape().head_dim + i)];
        q = q < 0 ? -8.0f : 8.0f;
        scene.StoreKey(token, kv_head, i, q < 0 ? -16.0f : 16.0f);
      }
    }
    for (const KernelTable* level : KernelLevels()) {
      scene.Fill(*level, &random);
      for (const std::vector<KvEntry>& list : scene.Choose(*level, 0, &random)) {
        EXPECT_EQ(BlocksOf(scene, scene.row(), list), std::set<int64_t>{needle}) << level->name;
      }
    }
  }
}

TEST(SelectBlocksTest, EqualScoresGoToTheLowerBlock) {
  Random random;
  for (const ScoreReduction reduction : {ScoreReduction::kSoftmaxSum, ScoreReduction::kRawSum}) {
    ChoiceScene scene({.context_tokens = 400}, &random);
    scene.row().reduction = reduction;
    scene.row().num_picked = 7;
    // All keys alike, but for block 20, which wins.
    for (int64_t token = 0; token < 400; ++token) {
      for (int64_t head = 0; head < 2; ++head) {
        for (int64_t i = 0; i < 64; ++i) scene.StoreKey(token, head, i, token / 16 == 20 ? 2.0f : 1.0f);
      }
    }
    for (float& q : scene.q()) q = std::fabs(q);
    for (const KernelTable* level : KernelLevels()) {
      scene.Fill(*level, &random);
      for (const std::vector<KvEntry>& list : scene.Choose(*level, 0, &random)) {
        EXPECT_EQ(BlocksOf(scene, scene.row(), list), (std::set<int64_t>{1, 2, 3, 4, 5, 6, 20})) << level->name;
      }
    }
  }
}

TEST(SelectBlocksTest, ADenseLayerReadsTheContext) {
  Random random;
  ChoiceScene scene({}, &random);
  scene.row().dense_layers[1] = uint64_t{1} << 6;
  for (const KernelTable* level : KernelLevels()) {
    scene.Fill(*level, &random);
    for (const std::vector<KvEntry>& list : scene.Choose(*level, 70, &random)) {
      EXPECT_EQ(static_cast<int64_t>(list.size()), scene.row().context.num_entries);
      EXPECT_EQ(list.back().position + list.back().num_valid, scene.shape().context_tokens);
    }
    for (const std::vector<KvEntry>& list : scene.Choose(*level, 6, &random)) {
      BlocksOf(scene, scene.row(), list);
    }
  }
}

}  // namespace
}  // namespace farspan::kernels
