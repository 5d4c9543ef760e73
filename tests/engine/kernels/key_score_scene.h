// SPDX-License-Identifier: Apache-2.0
// Random lists and rows of queries that score the keys on them, with the float64 answer.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "tests/engine/kernels/attention_scene.h"

namespace farspan::kernels {

class KeyScoreScene {
 public:
  explicit KeyScoreScene(Random* random) : KeyScoreScene(RandomShape(random, kAllKvElements), 4, random) {}
  KeyScoreScene(const SceneShape& shape, int64_t most_queries, Random* random) : scene_(shape, random) {
    const int64_t context = scene_.shape().context_tokens, num_rows = random->Integer(1, 3);
    max_queries_ = random->Integer(1, std::min<int64_t>(most_queries, context));
    args_.num_rows = num_rows, args_.max_queries = max_queries_;
    args_.score = random->OneIn(2) ? KeyScore::kLogit : KeyScore::kProbability;
    args_.over_group = RandomFold(random), args_.over_queries = RandomFold(random);
    args_.over_columns = RandomFold(random);
    args_.column_tokens = args_.over_columns == ScoreFold::kNone ? 1
                          : random->OneIn(2)                     ? random->Integer(1, 70)
                                                                 : int64_t{1} << random->Integer(0, 7);
    args_.max_columns = context / args_.column_tokens + random->Integer(1, 5);
    for (int64_t list = 0; list < num_rows * scene_.shape().num_kv_heads; ++list) {
      const std::vector<KvEntry> own =
          random->OneIn(8) ? std::vector<KvEntry>() : scene_.RandomEntries(context, random);
      lists_.push_back({static_cast<int64_t>(entries_.size()), static_cast<int64_t>(own.size())});
      entries_.insert(entries_.end(), own.begin(), own.end());
    }
    for (int64_t row = 0; row < num_rows; ++row) {
      const int64_t num_queries = random->Integer(1, max_queries_), first = random->Integer(0, context - num_queries);
      rows_.push_back({.row = first,
                       .num_queries = num_queries,
                       .first_position = first,
                       .left_window = random->OneIn(2) ? kNoLeftWindow : random->Integer(1, context)});
    }
    lse_ = random->Reals(context * scene_.num_heads(), -1, 3);
  }

  const AttentionScene& scene() const { return scene_; }
  const std::vector<KvEntry>& entries() const { return entries_; }
  const std::vector<KvList>& lists() const { return lists_; }
  const std::vector<KeyScoreRow>& rows() const { return rows_; }
  const std::vector<float>& lse() const { return lse_; }
  size_t num_scores() const {
    return static_cast<size_t>(args_.num_rows * scene_.shape().num_kv_heads * head_cells() * query_cells() *
                               args_.max_columns);
  }
  // With the scene's pointers; `scores` is the caller's.
  KeyScoresArgs Args(float* scores) const {
    KeyScoresArgs args = args_;
    args.common = scene_.Common(entries_, nullptr, const_cast<float*>(lse_.data()));
    args.rows = rows_.data(), args.lists = lists_.data(), args.scores = scores;
    return args;
  }

  // NaN where nothing is written.
  std::vector<double> Expected() const {
    std::vector<double> scores(num_scores(), std::nan(""));
    const int64_t num_kv_heads = scene_.shape().num_kv_heads;
    for (int64_t task = 0; task < args_.num_rows * num_kv_heads; ++task) {
      const KvList list = lists_[static_cast<size_t>(task)];
      int64_t previous_column = -1;
      for (int64_t e = list.entries_begin; e < list.entries_begin + list.num_entries; ++e) {
        const KvEntry& entry = entries_[static_cast<size_t>(e)];
        for (int64_t i = 0; i < entry.num_valid; ++i) {
          const int64_t column = (entry.position + i) / args_.column_tokens;
          ExpectToken(task, entry, i, column, column != previous_column, &scores);
          previous_column = column;
        }
      }
    }
    return scores;
  }

 private:
  static ScoreFold RandomFold(Random* random) { return static_cast<ScoreFold>(random->Integer(0, 2)); }
  static double Fold(ScoreFold fold, double a, double b) { return fold == ScoreFold::kMax ? std::max(a, b) : a + b; }

  int64_t head_cells() const { return args_.over_group == ScoreFold::kNone ? scene_.shape().group : 1; }
  int64_t query_cells() const { return args_.over_queries == ScoreFold::kNone ? max_queries_ : 1; }

  double ExpectScore(const KeyScoreRow& row, const KvEntry& token, int64_t query, int64_t head) const {
    const int64_t position = row.first_position + query;
    // Attention to one token alone: the log-sum-exp is its logit.
    const double logit = scene_.Reference({token}, position, head, row.left_window).back();
    if (args_.score == KeyScore::kLogit) return logit;
    return std::exp(logit - lse_[static_cast<size_t>((row.row + query) * scene_.num_heads() + head)]);
  }

  void ExpectToken(int64_t task, const KvEntry& entry, int64_t index, int64_t column, bool begins_column,
                   std::vector<double>* scores) const {
    const int64_t group = scene_.shape().group, num_kv_heads = scene_.shape().num_kv_heads;
    const KeyScoreRow& row = rows_[static_cast<size_t>(task / num_kv_heads)];
    KvEntry token = entry;
    token.first_valid += static_cast<int32_t>(index), token.position += index, token.num_valid = 1;
    for (int64_t head_cell = 0; head_cell < head_cells(); ++head_cell) {
      for (int64_t query_cell = 0; query_cell < std::min(query_cells(), row.num_queries); ++query_cell) {
        const bool all_heads = args_.over_group != ScoreFold::kNone,
                   all_queries = args_.over_queries != ScoreFold::kNone;
        double score = 0;
        for (int64_t query = all_queries ? 0 : query_cell; query < (all_queries ? row.num_queries : query_cell + 1);
             ++query) {
          double own = 0;
          for (int64_t head = all_heads ? 0 : head_cell; head < (all_heads ? group : head_cell + 1); ++head) {
            const double single = ExpectScore(row, token, query, task % num_kv_heads * group + head);
            own = !all_heads || head == 0 ? single : Fold(args_.over_group, own, single);
          }
          score = !all_queries || query == 0 ? own : Fold(args_.over_queries, score, own);
        }
        const int64_t cell =
            ((task * head_cells() + head_cell) * query_cells() + query_cell) * args_.max_columns + column;
        double& out = (*scores)[static_cast<size_t>(cell)];
        out = begins_column ? score : Fold(args_.over_columns, out, score);
      }
    }
  }

  AttentionScene scene_;
  int64_t max_queries_ = 1;
  std::vector<KvEntry> entries_;
  std::vector<KvList> lists_;
  std::vector<KeyScoreRow> rows_;
  std::vector<float> lse_;
  KeyScoresArgs args_ = {};
};

}  // namespace farspan::kernels
