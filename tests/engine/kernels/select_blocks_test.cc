// SPDX-License-Identifier: Apache-2.0
// Key bounds and the choice of blocks at every ISA level, against float64 loops that share nothing with the kernels.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "engine/kernels/cpu/number_formats.h"
#include "tests/engine/kernels/kernel_test_support.h"

namespace farspan::kernels {
namespace {

size_t Index(int64_t i) { return static_cast<size_t>(i); }

struct ChoiceShape {
  int64_t num_kv_heads = 2;
  int64_t group = 3;
  int64_t head_dim = 64;
  int64_t page_tokens = 32;
  int64_t block_tokens = 16;
  int64_t context_tokens = 600;
  KvElement element = KvElement::kBf16;
};

ChoiceShape RandomChoiceShape(Random* random) {
  constexpr int64_t kPageTokens[] = {8, 16, 32, 64};
  ChoiceShape shape;
  shape.num_kv_heads = random->Integer(1, 3);
  shape.group = random->Integer(1, 9);
  shape.head_dim = 8 * random->Integer(1, 16);
  shape.page_tokens = kPageTokens[random->Integer(0, 3)];
  shape.block_tokens = 16 << random->Integer(0, 2);
  shape.context_tokens = random->Integer(8 * shape.block_tokens, 40 * shape.block_tokens);
  shape.element = random->OneIn(2) ? KvElement::kBf16 : KvElement::kF32;
  return shape;
}

double LogSumExp(const std::vector<double>& values) {
  const double maximum = *std::max_element(values.begin(), values.end());
  double sum = 0;
  for (const double value : values) sum += std::exp(value - maximum);
  return maximum + std::log(sum);
}

// One sequence's keys in scattered pages, its last query, and a row that chooses among its blocks. Values, pages of
// nobody and the bounds before they are filled are NaN.
class ChoiceScene {
 public:
  ChoiceScene(const ChoiceShape& shape, Random* random) : shape_(shape) {
    const int64_t pages = (shape.context_tokens + shape.page_tokens - 1) / shape.page_tokens;
    for (int32_t page = 0; page < pages + 2; ++page) table_.push_back(page);
    random->Shuffle(&table_);
    keys_.assign(Index(cache().num_pages * cache().page_elements() * cache().element_bytes()), 0xff);
    bounds_.assign(keys_.size() / Index(run_tokens()), 0xff);
    for (int64_t token = 0; token < shape.context_tokens; ++token) {
      for (int64_t head = 0; head < shape.num_kv_heads; ++head) {
        for (int64_t i = 0; i < shape.head_dim; ++i) StoreKey(token, head, i, random->Real(-2, 2));
      }
    }
    q_ = random->Reals(num_heads() * shape.head_dim, -2, 2);
    for (int64_t token = 0; token < shape.context_tokens; token += shape.page_tokens) {
      entries_.push_back({.page = PageOf(token),
                          .num_valid = static_cast<int32_t>(std::min(shape.page_tokens, shape.context_tokens - token)),
                          .position = token});
    }
    row_.context = {0, static_cast<int64_t>(entries_.size())};
    row_.leading = AddEntry(0);
    row_.trailing = AddEntry(shape.context_tokens - 1);
    row_.block_tokens = shape.block_tokens;
    row_.num_blocks = shape.context_tokens / shape.block_tokens;
    row_.first_candidate = 1;
    row_.num_candidates = (shape.context_tokens - 1) / shape.block_tokens - 1;
    row_.num_picked = random->Integer(1, row_.num_candidates);
  }

  const ChoiceShape& shape() const { return shape_; }
  SelectorRow& row() { return row_; }
  std::vector<float>& q() { return q_; }
  int64_t num_heads() const { return shape_.num_kv_heads * shape_.group; }
  int64_t run_tokens() const { return KeyBoundsTokens(shape_.page_tokens); }

  int32_t PageOf(int64_t token) const { return table_[Index(token / shape_.page_tokens)]; }

  float Key(int64_t token, int64_t head, int64_t channel) const {
    const int64_t index = KeyIndex(token, head, channel);
    if (shape_.element == KvElement::kF32) return reinterpret_cast<const float*>(keys_.data())[index];
    return Bf16ToFloat(reinterpret_cast<const uint16_t*>(keys_.data())[index]);
  }
  void StoreKey(int64_t token, int64_t head, int64_t channel, float value) {
    const int64_t index = KeyIndex(token, head, channel);
    if (shape_.element == KvElement::kF32) {
      reinterpret_cast<float*>(keys_.data())[index] = value;
    } else {
      reinterpret_cast<uint16_t*>(keys_.data())[index] = FloatToBf16(value);
    }
  }
  // The stored bound of the run that begins at `token`: [page][kv head][run][min|max][head_dim].
  float Bound(int64_t token, int64_t head, bool is_max, int64_t channel) const {
    const int64_t runs = shape_.page_tokens / run_tokens(), run = token % shape_.page_tokens / run_tokens();
    const int64_t vector = ((PageOf(token) * shape_.num_kv_heads + head) * runs + run) * 2 + (is_max ? 1 : 0);
    const int64_t index = vector * shape_.head_dim + channel;
    if (shape_.element == KvElement::kF32) return reinterpret_cast<const float*>(bounds_.data())[index];
    return Bf16ToFloat(reinterpret_cast<const uint16_t*>(bounds_.data())[index]);
  }

  void Fill(const KernelTable& level, Random* random) {
    std::fill(bounds_.begin(), bounds_.end(), 0xff);
    std::vector<KeyRun> runs;
    for (int64_t token = 0; token < row_.num_blocks * row_.block_tokens; token += run_tokens()) {
      runs.push_back({PageOf(token), static_cast<int32_t>(token % shape_.page_tokens / run_tokens())});
    }
    random->Shuffle(&runs);
    const FillKeyBoundsArgs args = {.cache = cache(),
                                    .bounds = {bounds_.data()},
                                    .runs = runs.data(),
                                    .num_runs = static_cast<int64_t>(runs.size())};
    RunShuffled(level.fill_key_bounds, args, random);
  }

  // The entries of each KV head's list, after Fill.
  std::vector<std::vector<KvEntry>> Choose(const KernelTable& level, int64_t layer, Random* random) {
    std::vector<KvEntry> entries = entries_;
    const KvEntry poison = {.page = -1, .first_valid = -1, .num_valid = -1, .position = -1};
    const int64_t capacity = shape_.num_kv_heads * SelectedEntries(row_, shape_.page_tokens);
    entries.insert(entries.end(), Index(capacity), poison);
    std::vector<KvList> lists(Index(shape_.num_kv_heads), KvList{-1, -1});
    const SelectBlocksArgs args = {.q = q_.data(),
                                   .cache = cache(),
                                   .bounds = {bounds_.data()},
                                   .entries = entries.data(),
                                   .first_slot = static_cast<int64_t>(entries_.size()),
                                   .lists = lists.data(),
                                   .rows = &row_,
                                   .num_rows = 1,
                                   .layer = layer,
                                   .num_heads = num_heads()};
    ScoreTiles tiles;
    PlanScoreTiles(args, &tiles);
    std::vector<float> scores(Index(tiles.num_scores), kNan);
    const SelectionPass pass = {.args = &args,
                                .tiles = tiles.tiles.data(),
                                .num_tiles = static_cast<int64_t>(tiles.tiles.size()),
                                .first_score = tiles.first_score.data(),
                                .scores = scores.data()};
    RunShuffled(level.score_key_bounds, pass, random);
    scores_ = scores;
    RunShuffled(level.pick_blocks, pass, random);
    std::vector<std::vector<KvEntry>> chosen;
    for (const KvList& list : lists) {
      chosen.emplace_back(entries.begin() + list.entries_begin,
                          entries.begin() + list.entries_begin + list.num_entries);
    }
    return chosen;
  }
  // Of the last Choose: the score of candidate `block` for query head `head`.
  float score(int64_t head, int64_t block) const {
    return scores_[Index(head * PaddedBlocks(row_.num_blocks) + block)];
  }

  // The exact bound on q . k of candidate `block`.
  double ExactBound(int64_t head, int64_t block) const {
    double sum = 0;
    for (int64_t i = 0; i < shape_.head_dim; ++i) {
      const double q = q_[Index(head * shape_.head_dim + i)];
      double best = -INFINITY;
      ForTokens(block, [&](int64_t token) { best = std::max(best, q * Key(token, head / shape_.group, i)); });
      sum += best;
    }
    return sum;
  }
  double LargestDot(int64_t head, int64_t block) const {
    double largest = -INFINITY;
    ForTokens(block, [&](int64_t token) {
      double dot = 0;
      for (int64_t i = 0; i < shape_.head_dim; ++i) {
        dot += static_cast<double>(q_[Index(head * shape_.head_dim + i)]) * Key(token, head / shape_.group, i);
      }
      largest = std::max(largest, dot);
    });
    return largest;
  }

  // The KV head's score of every block, in float64: a raw sum, or the logarithm of the sum of softmaxes.
  std::vector<double> ExactScores(int64_t kv_head) const {
    const bool softmax = row_.reduction == ScoreReduction::kSoftmaxSum;
    std::vector<double> result;
    std::vector<std::vector<double>> by_block(Index(row_.num_blocks));
    for (int64_t head = kv_head * shape_.group; head < (kv_head + 1) * shape_.group; ++head) {
      std::vector<double> own;
      for (int64_t block = 0; block < row_.num_blocks; ++block) own.push_back(ExactBound(head, block));
      const double total = softmax ? LogSumExp(own) : 0;
      for (size_t block = 0; block < own.size(); ++block) by_block[block].push_back(own[block] - total);
    }
    for (const std::vector<double>& heads : by_block) {
      result.push_back(softmax ? LogSumExp(heads) : std::accumulate(heads.begin(), heads.end(), 0.0));
    }
    return result;
  }

 private:
  KvLayerView cache() const {
    return {.data = const_cast<uint8_t*>(keys_.data()),
            .element = shape_.element,
            .num_pages = static_cast<int64_t>(table_.size()),
            .num_kv_heads = shape_.num_kv_heads,
            .page_tokens = shape_.page_tokens,
            .head_dim = shape_.head_dim};
  }
  int64_t KeyIndex(int64_t token, int64_t head, int64_t channel) const {
    const int64_t plane = (PageOf(token) * shape_.num_kv_heads + head) * 2;
    return (plane * shape_.page_tokens + token % shape_.page_tokens) * shape_.head_dim + channel;
  }
  KvList AddEntry(int64_t token) {
    entries_.push_back({.page = PageOf(token),
                        .first_valid = static_cast<int32_t>(token % shape_.page_tokens),
                        .num_valid = 1,
                        .position = token});
    return {static_cast<int64_t>(entries_.size()) - 1, 1};
  }
  template <typename Body>
  void ForTokens(int64_t block, const Body& body) const {
    const int64_t begin = block * row_.block_tokens;
    for (int64_t token = begin; token < begin + row_.block_tokens; ++token) body(token);
  }

  const ChoiceShape shape_;
  std::vector<int32_t> table_;
  std::vector<uint8_t> keys_, bounds_;
  std::vector<float> q_, scores_;
  std::vector<KvEntry> entries_;
  SelectorRow row_ = {};
};

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
      lowest_chosen = std::min(lowest_chosen, scores[Index(block)]);
    } else {
      highest_other = std::max(highest_other, scores[Index(block)]);
    }
  }
  const double rounding = 2e-6 * static_cast<double>(scene.shape().head_dim * scene.shape().group);
  EXPECT_GE(lowest_chosen, highest_other - rounding) << level;
}

TEST(KeyBoundsTest, AreTheExactExtremesOfEachChannel) {
  Random random;
  for (int round = 0; round < 20; ++round) {
    ChoiceScene scene(RandomChoiceShape(&random), &random);
    const SelectorRow& row = scene.row();
    for (const KernelTable* level : KernelLevels()) {
      scene.Fill(*level, &random);
      for (int64_t token = 0; token < row.num_blocks * row.block_tokens; token += scene.run_tokens()) {
        for (int64_t head = 0; head < scene.shape().num_kv_heads; ++head) {
          for (int64_t i = 0; i < scene.shape().head_dim; ++i) {
            float smallest = INFINITY, largest = -INFINITY;
            for (int64_t t = token; t < token + scene.run_tokens(); ++t) {
              smallest = std::min(smallest, scene.Key(t, head, i));
              largest = std::max(largest, scene.Key(t, head, i));
            }
            ASSERT_EQ(scene.Bound(token, head, false, i), smallest) << level->name;
            ASSERT_EQ(scene.Bound(token, head, true, i), largest) << level->name;
          }
        }
      }
    }
  }
}

TEST(KeyBoundsTest, ANanKeyMakesItsChannelNan) {
  Random random;
  for (const KvElement element : {KvElement::kBf16, KvElement::kF32}) {
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
    ChoiceScene scene(RandomChoiceShape(&random), &random);
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
    ChoiceScene scene(RandomChoiceShape(&random), &random);
    for (const ScoreReduction reduction : {ScoreReduction::kSoftmaxSum, ScoreReduction::kRawSum}) {
      scene.row().reduction = reduction;
      for (const KernelTable* level : KernelLevels()) {
        scene.Fill(*level, &random);
        const auto lists = scene.Choose(*level, 3, &random);
        for (int64_t head = 0; head < scene.shape().num_kv_heads; ++head) {
          ExpectHighest(scene, scene.row(), head, BlocksOf(scene, scene.row(), lists[Index(head)]), level->name);
        }
      }
    }
  }
}

TEST(SelectBlocksTest, FindsAPlantedNeedle) {
  Random random;
  for (int round = 0; round < 20; ++round) {
    ChoiceScene scene(RandomChoiceShape(&random), &random);
    scene.row().num_picked = 1;
    const int64_t needle = random.Integer(1, scene.row().num_candidates);
    const int64_t token = needle * scene.shape().block_tokens + random.Integer(0, scene.shape().block_tokens - 1);
    // One query head of each group asks for exactly this key, loudly.
    for (int64_t kv_head = 0; kv_head < scene.shape().num_kv_heads; ++kv_head) {
      for (int64_t i = 0; i < scene.shape().head_dim; ++i) {
        float& q = scene.q()[Index(kv_head * scene.shape().group * scene.shape().head_dim + i)];
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
