// SPDX-License-Identifier: Apache-2.0
// Keys in scattered pages, a query and a row that chooses among its blocks, made at random for the tests of key bounds
// and selection, with the float64 answers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "engine/kernels/cpu/number_formats.h"
#include "tests/engine/kernels/kernel_test_support.h"

namespace farspan::kernels {

inline size_t ToIndex(int64_t i) { return static_cast<size_t>(i); }

struct ChoiceShape {
  int64_t num_kv_heads = 2;
  int64_t group = 3;
  int64_t head_dim = 64;
  int64_t page_tokens = 32;
  int64_t block_tokens = 16;
  int64_t context_tokens = 600;
  KvElement element = KvElement::kBf16;
};

inline ChoiceShape RandomChoiceShape(Random* random, std::span<const KvElement> elements = kWideKvElements) {
  constexpr int64_t kPageTokens[] = {8, 16, 32, 64};
  ChoiceShape shape;
  shape.num_kv_heads = random->Integer(1, 3);
  shape.group = random->Integer(1, 9);
  shape.head_dim = 8 * random->Integer(1, 16);
  shape.page_tokens = kPageTokens[random->Integer(0, 3)];
  shape.block_tokens = 16 << random->Integer(0, 2);
  shape.context_tokens = random->Integer(8 * shape.block_tokens, 40 * shape.block_tokens);
  shape.element = random->OneOf(elements);
  return shape;
}

inline double LogSumExp(const std::vector<double>& values) {
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
    keys_.assign(ToIndex(cache().num_pages * cache().page_elements() * cache().element_bytes()), 0xff);
    bounds_.assign(keys_.size() / ToIndex(shape.page_tokens) * ToIndex(KeyBoundsPairs(shape.page_tokens)), 0xff);
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

  int32_t PageOf(int64_t token) const { return table_[ToIndex(token / shape_.page_tokens)]; }

  float Key(int64_t token, int64_t head, int64_t channel) const {
    const int64_t index = KeyToIndex(token, head, channel);
    return LoadKvElement(shape_.element, keys_.data(), index);
  }
  void StoreKey(int64_t token, int64_t head, int64_t channel, float value) {
    const int64_t index = KeyToIndex(token, head, channel);
    StoreKvElement(shape_.element, keys_.data(), index, value);
  }
  // The stored bound of the run that begins at `token`: in its page [kv head][run][min|max][head_dim].
  float Bound(int64_t token, int64_t head, bool is_max, int64_t channel) const {
    const int64_t runs = shape_.page_tokens / run_tokens(), run = token % shape_.page_tokens / run_tokens();
    return BoundAt(token, head * runs + run, is_max, channel);
  }
  // That of its whole page: behind those of the runs [kv head][min|max][head_dim].
  float PageBound(int64_t token, int64_t head, bool is_max, int64_t channel) const {
    const int64_t runs = shape_.page_tokens / run_tokens();
    return BoundAt(token, (runs > 1 ? shape_.num_kv_heads * runs : 0) + head, is_max, channel);
  }

  void Fill(const KernelTable& level, Random* random) {
    std::fill(bounds_.begin(), bounds_.end(), 0xff);
    std::vector<KeyRun> runs;
    for (int64_t token = 0; token < row_.num_blocks * row_.block_tokens; token += run_tokens()) {
      runs.push_back({PageOf(token), static_cast<int32_t>(token % shape_.page_tokens / run_tokens())});
      if (random->OneIn(8)) runs.push_back({.page = -1, .run = 0});
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
    row_.slots_begin = static_cast<int64_t>(entries_.size());
    const KvEntry poison = {.page = -1, .first_valid = -1, .num_valid = -1, .position = -1};
    const int64_t capacity = shape_.num_kv_heads * SelectedEntries(row_, shape_.page_tokens);
    entries.insert(entries.end(), ToIndex(capacity), poison);
    std::vector<KvList> lists(ToIndex(shape_.num_kv_heads), KvList{-1, -1});
    const SelectBlocksArgs args = {.q = q_.data(),
                                   .cache = cache(),
                                   .bounds = {bounds_.data()},
                                   .entries = entries.data(),
                                   .lists = lists.data(),
                                   .rows = &row_,
                                   .num_rows = 1,
                                   .layer = layer,
                                   .num_heads = num_heads()};
    ScoreTiles tiles;
    PlanScoreTiles(args, &tiles);
    std::vector<float> scores(ToIndex(tiles.num_scores), kNan);
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
    return scores_[ToIndex(head * PaddedBlocks(row_.num_blocks) + block)];
  }

  // The exact bound on q . k of candidate `block`.
  double ExactBound(int64_t head, int64_t block) const {
    double sum = 0;
    for (int64_t i = 0; i < shape_.head_dim; ++i) {
      const double q = q_[ToIndex(head * shape_.head_dim + i)];
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
        dot += static_cast<double>(q_[ToIndex(head * shape_.head_dim + i)]) * Key(token, head / shape_.group, i);
      }
      largest = std::max(largest, dot);
    });
    return largest;
  }

  // The KV head's score of every block, in float64: a raw sum, or the logarithm of the sum of softmaxes.
  std::vector<double> ExactScores(int64_t kv_head) const {
    const bool softmax = row_.reduction == ScoreReduction::kSoftmaxSum;
    std::vector<double> result;
    std::vector<std::vector<double>> by_block(ToIndex(row_.num_blocks));
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
  int64_t KeyToIndex(int64_t token, int64_t head, int64_t channel) const {
    const int64_t plane = (PageOf(token) * shape_.num_kv_heads + head) * 2;
    return (plane * shape_.page_tokens + token % shape_.page_tokens) * shape_.head_dim + channel;
  }
  float BoundAt(int64_t token, int64_t pair_in_page, bool is_max, int64_t channel) const {
    const int64_t pair = PageOf(token) * shape_.num_kv_heads * KeyBoundsPairs(shape_.page_tokens) + pair_in_page;
    const int64_t index = (pair * 2 + (is_max ? 1 : 0)) * shape_.head_dim + channel;
    return LoadKvElement(shape_.element, bounds_.data(), index);
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

}  // namespace farspan::kernels
