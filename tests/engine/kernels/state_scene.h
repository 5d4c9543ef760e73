// SPDX-License-Identifier: Apache-2.0
// Decode rows that read their lists in parts, each leaving softmax states, and what the states merge to.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "tests/engine/kernels/attention_scene.h"

namespace farspan::kernels {

class StateScene {
 public:
  StateScene(const SceneShape& shape, Random* random) : scene_(shape, random) {
    const int64_t context = shape.context_tokens, num_rows = random->Integer(1, 4);
    num_parts_ = random->Integer(1, 9);
    for (int64_t row = 0; row < num_rows; ++row) {
      const int64_t position = random->OneIn(4) ? 0 : random->Integer(0, context - 1);
      rows_.push_back({.row = row,
                       .position = position,
                       .left_window = random->OneIn(2) ? kNoLeftWindow : random->Integer(1, context)});
      whole_.push_back(random->OneIn(8) ? std::vector<KvEntry>() : scene_.RandomEntries(context, random));
    }
    for (int64_t part = 0; part < num_parts_; ++part) {
      for (const std::vector<KvEntry>& whole : whole_) {
        const int64_t cut = static_cast<int64_t>(whole.size()) * part / num_parts_;
        const int64_t end = static_cast<int64_t>(whole.size()) * (part + 1) / num_parts_;
        for (int64_t head = 0; head < shape.num_kv_heads; ++head) {
          lists_.push_back({static_cast<int64_t>(entries_.size()), end - cut});
        }
        entries_.insert(entries_.end(), whole.begin() + cut, whole.begin() + end);
      }
    }
  }

  const AttentionScene& scene() const { return scene_; }
  int64_t num_parts() const { return num_parts_; }
  int64_t num_rows() const { return static_cast<int64_t>(rows_.size()); }
  int64_t num_places() const { return num_rows() * scene_.num_heads(); }
  int64_t head_dim() const { return scene_.shape().head_dim; }
  const std::vector<DecodeRow>& rows() const { return rows_; }
  const std::vector<KvList>& lists() const { return lists_; }
  const std::vector<KvEntry>& entries() const { return entries_; }

  // Queries of the rows, which are those of their positions, and the rows' rotations.
  std::vector<float> Queries() const {
    return Gather(scene_.Common({}, nullptr, nullptr).q_f32(), scene_.num_heads() * head_dim());
  }
  std::vector<float> Rotations() const {
    return Gather(scene_.Common({}, nullptr, nullptr).rope_cos_sin, scene_.shape().rope_dim);
  }

  // Of one part, over the caller's arrays in `common`, rows and lists; states of [num_parts].
  DecodeStatesArgs Part(int64_t part, const AttentionCommon& common, const DecodeRow* rows, const KvList* lists,
                        const SoftmaxStates& all) const {
    const int64_t first = part * num_places();
    return {.attention = {.common = common,
                          .rows = rows,
                          .lists = lists + part * num_rows() * scene_.shape().num_kv_heads,
                          .num_rows = num_rows()},
            .states = {.out = all.out + first * head_dim(), .maximum = all.maximum + first, .sum = all.sum + first}};
  }
  MergeStatesArgs Merge(const SoftmaxStates& all, void* out, float* lse, Activation activation) const {
    return {.states = all,
            .num_states = num_parts_,
            .out = out,
            .lse = lse,
            .num_rows = num_rows(),
            .num_heads = scene_.num_heads(),
            .head_dim = head_dim(),
            .activation = activation};
  }

  // Float64: [head_dim] outputs of one row and head over all parts, then the log-sum-exp.
  std::vector<double> Expected(int64_t row, int64_t head) const {
    const DecodeRow& own = rows_[static_cast<size_t>(row)];
    return scene_.Reference(whole_[static_cast<size_t>(row)], own.position, head, own.left_window);
  }

 private:
  std::vector<float> Gather(const float* from, int64_t size) const {
    std::vector<float> values;
    for (const DecodeRow& row : rows_) {
      values.insert(values.end(), from + row.position * size, from + (row.position + 1) * size);
    }
    return values;
  }

  AttentionScene scene_;
  int64_t num_parts_ = 1;
  std::vector<DecodeRow> rows_;
  std::vector<std::vector<KvEntry>> whole_;
  std::vector<KvList> lists_;
  std::vector<KvEntry> entries_;
};

}  // namespace farspan::kernels
