// SPDX-License-Identifier: Apache-2.0
#include "tests/engine/kernels/attention_scene.h"

#include <algorithm>
#include <cmath>

#include "engine/kernels/cpu/number_formats.h"

namespace farspan::kernels {
namespace {

size_t Index(int64_t i) { return static_cast<size_t>(i); }

}  // namespace

SceneShape RandomShape(Random* random, std::span<const KvElement> elements) {
  SceneShape shape;
  shape.num_kv_heads = random->Integer(1, 3);
  shape.group = random->OneIn(12) ? 32 : random->Integer(1, 8);
  shape.head_dim = 8 * (random->OneIn(12) ? 32 : random->Integer(1, 16));
  if (random->OneIn(2)) shape.head_dim = 32 * random->Integer(1, 4);  // those that whole vectors cover
  shape.rope_dim = random->OneIn(2) ? shape.head_dim : 2 * random->Integer(1, shape.head_dim / 2);
  constexpr int64_t kPageTokens[] = {1, 8, 12, 16, 32, 64};
  shape.page_tokens = kPageTokens[random->Integer(0, 5)];
  shape.context_tokens = random->Integer(1, 12 * std::min<int64_t>(shape.page_tokens, 32));
  shape.element = random->OneOf(elements);
  return shape;
}

AttentionScene::AttentionScene(const SceneShape& shape, Random* random) : shape_(shape) {
  const int64_t pages = (shape.context_tokens + shape.page_tokens - 1) / shape.page_tokens;
  num_pages_ = pages + 3;
  for (int32_t page = 0; page < num_pages_; ++page) block_table_.push_back(page);
  random->Shuffle(&block_table_);
  bytes_.assign(Index(num_pages_ * Cache().page_elements() * Cache().element_bytes()), 0xff);
  for (int64_t position = 0; position < shape.context_tokens; ++position) {
    for (int64_t i = 0; i < shape.num_kv_heads * shape.head_dim; ++i) {
      Store(position, i / shape.head_dim, false, i % shape.head_dim, random->Real(-2, 2));
      Store(position, i / shape.head_dim, true, i % shape.head_dim, random->Real(-2, 2));
    }
  }
  q_ = random->Reals(shape.context_tokens * num_heads() * shape.head_dim, -2, 2);
  for (int64_t i = 0; i < shape.rope_dim / 2; ++i) {
    inverse_frequencies_.push_back(std::pow(1e4, -2.0 * static_cast<double>(i) / static_cast<double>(shape.rope_dim)));
  }
  for (int64_t position = 0; position < shape.context_tokens; ++position) {
    for (const double frequency : inverse_frequencies_) {
      cos_sin_.push_back(static_cast<float>(std::cos(static_cast<double>(position) * frequency)));
      cos_sin_.push_back(static_cast<float>(std::sin(static_cast<double>(position) * frequency)));
    }
  }
}

KvLayerView AttentionScene::Cache() const {
  return {.data = const_cast<uint8_t*>(bytes_.data()),
          .element = shape_.element,
          .num_pages = num_pages_,
          .num_kv_heads = shape_.num_kv_heads,
          .page_tokens = shape_.page_tokens,
          .head_dim = shape_.head_dim};
}

int64_t AttentionScene::ElementIndex(int64_t position, int64_t kv_head, bool is_value, int64_t channel) const {
  const int64_t plane = (page(position / shape_.page_tokens) * shape_.num_kv_heads + kv_head) * 2 + (is_value ? 1 : 0);
  return (plane * shape_.page_tokens + position % shape_.page_tokens) * shape_.head_dim + channel;
}

float AttentionScene::Load(int64_t position, int64_t kv_head, bool is_value, int64_t channel) const {
  const int64_t index = ElementIndex(position, kv_head, is_value, channel);
  return LoadKvElement(shape_.element, bytes_.data(), index);
}

void AttentionScene::Store(int64_t position, int64_t kv_head, bool is_value, int64_t channel, float value) {
  const int64_t index = ElementIndex(position, kv_head, is_value, channel);
  StoreKvElement(shape_.element, bytes_.data(), index, value);
}

void AttentionScene::MovePages(Random* random) {
  const std::vector<uint8_t> old_bytes = bytes_;
  const std::vector<int32_t> old_table = block_table_;
  random->Shuffle(&block_table_);
  const int64_t page_bytes = Cache().page_elements() * Cache().element_bytes();
  for (size_t i = 0; i < old_table.size(); ++i) {
    std::copy_n(old_bytes.begin() + old_table[i] * page_bytes, page_bytes,
                bytes_.begin() + block_table_[i] * page_bytes);
  }
}

std::vector<KvEntry> AttentionScene::Entries(int64_t begin, int64_t end) const {
  std::vector<KvEntry> entries;
  while (begin < end) {
    const int64_t token = begin % shape_.page_tokens;
    const int64_t num_valid = std::min(end - begin, shape_.page_tokens - token);
    entries.push_back({.page = page(begin / shape_.page_tokens),
                       .first_valid = static_cast<int32_t>(token),
                       .num_valid = static_cast<int32_t>(num_valid),
                       .position = begin});
    begin += num_valid;
  }
  return entries;
}

std::vector<KvEntry> AttentionScene::RandomEntries(int64_t end, Random* random) const {
  std::vector<KvEntry> entries;
  for (int64_t begin = 0; begin < end;) {
    const int64_t piece_end = std::min(end, begin + random->Integer(1, 2 * shape_.page_tokens));
    if (!random->OneIn(3)) {
      const uint32_t head_mask = random->OneIn(3) ? static_cast<uint32_t>(random->Integer(0, 0xffffffff)) : kAllHeads;
      const int64_t query_cap = random->OneIn(3) ? random->Integer(piece_end - 1, end + 5) : kNoQueryCap;
      const bool ignores_left_window = random->OneIn(3);
      for (KvEntry entry : Entries(begin, piece_end)) {
        entry.head_mask = head_mask;
        entry.query_cap = query_cap;
        entry.ignores_left_window = ignores_left_window;
        entries.push_back(entry);
      }
    }
    begin = piece_end;
  }
  return entries;
}

void AttentionScene::TurnKey(int64_t position, int64_t delta) {
  for (int64_t kv_head = 0; kv_head < shape_.num_kv_heads; ++kv_head) {
    for (int64_t i = 0; i < shape_.rope_dim / 2; ++i) {
      const double angle = static_cast<double>(delta) * inverse_frequencies_[Index(i)];
      const double even = Load(position, kv_head, false, 2 * i), odd = Load(position, kv_head, false, 2 * i + 1);
      Store(position, kv_head, false, 2 * i, static_cast<float>(even * std::cos(angle) - odd * std::sin(angle)));
      Store(position, kv_head, false, 2 * i + 1, static_cast<float>(even * std::sin(angle) + odd * std::cos(angle)));
    }
  }
}

AttentionCommon AttentionScene::Common(const std::vector<KvEntry>& entries, float* out, float* lse) const {
  return {.q = q_.data(),
          .out = out,
          .lse = lse,
          .cache = Cache(),
          .entries = entries.data(),
          .rope_cos_sin = cos_sin_.data(),
          .inverse_frequencies = inverse_frequencies_.data(),
          .rope_dim = shape_.rope_dim,
          .num_heads = num_heads(),
          .scale = 1.0f / std::sqrt(static_cast<float>(shape_.head_dim))};
}

std::vector<double> AttentionScene::Reference(const std::vector<KvEntry>& entries, int64_t position, int64_t head,
                                              int64_t left_window) const {
  const int64_t head_dim = shape_.head_dim, kv_head = head / shape_.group;
  std::vector<double> result(Index(head_dim + 1), 0.0);
  double denominator = 0;
  for (const KvEntry& entry : entries) {
    if ((entry.head_mask >> (head % shape_.group) & 1) == 0) continue;
    std::vector<double> q;
    for (int64_t d = 0; d < head_dim; ++d) q.push_back(q_[Index((position * num_heads() + head) * head_dim + d)]);
    const double turn = static_cast<double>(std::min(position, entry.query_cap) - position);
    for (int64_t i = 0; i < shape_.rope_dim / 2; ++i) {
      const double angle = turn * inverse_frequencies_[Index(i)], even = q[Index(2 * i)], odd = q[Index(2 * i + 1)];
      q[Index(2 * i)] = even * std::cos(angle) - odd * std::sin(angle);
      q[Index(2 * i + 1)] = even * std::sin(angle) + odd * std::cos(angle);
    }
    for (int64_t key = entry.position; key < entry.position + entry.num_valid; ++key) {
      if (key > position || (!entry.ignores_left_window && position - key >= left_window)) continue;
      double score = 0;
      for (int64_t d = 0; d < head_dim; ++d) score += q[Index(d)] * Load(key, kv_head, false, d);
      const double weight = std::exp(score / std::sqrt(static_cast<double>(head_dim)));
      denominator += weight;
      for (int64_t d = 0; d < head_dim; ++d) result[Index(d)] += weight * Load(key, kv_head, true, d);
    }
  }
  for (int64_t d = 0; d < head_dim && denominator > 0; ++d) result[Index(d)] /= denominator;
  result[Index(head_dim)] = std::log(denominator);
  return result;
}

std::vector<KvEntry> CutEntries(const std::vector<KvEntry>& entries, Random* random) {
  std::vector<KvEntry> cut;
  for (KvEntry entry : entries) {
    while (entry.num_valid > 1 && !random->OneIn(3)) {
      KvEntry head = entry;
      head.num_valid = static_cast<int32_t>(random->Integer(1, entry.num_valid - 1));
      entry.first_valid += head.num_valid;
      entry.position += head.num_valid;
      entry.num_valid -= head.num_valid;
      cut.push_back(head);
    }
    cut.push_back(entry);
  }
  return cut;
}

AttentionResult RunDecode(const KernelTable& level, const AttentionScene& scene, const AttentionWork& work,
                          Random* random) {
  const SceneShape& shape = scene.shape();
  AttentionResult result;
  result.out.assign(Index(shape.context_tokens * scene.num_heads() * shape.head_dim), kNan);
  result.lse.assign(Index(shape.context_tokens * scene.num_heads()), kNan);
  std::vector<DecodeRow> rows;
  std::vector<KvList> lists;
  const KvList whole = {0, static_cast<int64_t>(work.entries.size())};
  for (const int64_t position : work.positions) {
    rows.push_back({.row = position, .position = position, .left_window = work.left_window});
    for (int64_t head = 0; head < shape.num_kv_heads; ++head) {
      lists.push_back(work.lists_by_head.empty() ? whole : work.lists_by_head[Index(head)]);
    }
  }
  const DecodeAttentionArgs args = {.common = scene.Common(work.entries, result.out.data(), result.lse.data()),
                                    .rows = rows.data(),
                                    .lists = lists.data(),
                                    .num_rows = static_cast<int64_t>(rows.size())};
  DecodeSplits splits;
  PlanDecodeSplits(args, &splits);
  const int64_t partial_floats = static_cast<int64_t>(splits.splits.size()) * shape.group * (shape.head_dim + 2);
  std::vector<float> partials(Index(partial_floats), kNan);
  const DecodePass pass = {.args = &args,
                           .splits = splits.splits.data(),
                           .num_splits = static_cast<int64_t>(splits.splits.size()),
                           .first_split = splits.first_split.data(),
                           .partials = partials.data()};
  RunShuffled(level.decode_partials, pass, random);
  RunShuffled(level.decode_merge, pass, random);
  return result;
}

AttentionResult RunPrefill(const KernelTable& level, const AttentionScene& scene, const AttentionWork& work,
                           Random* random) {
  const SceneShape& shape = scene.shape();
  AttentionResult result;
  result.out.assign(Index(shape.context_tokens * scene.num_heads() * shape.head_dim), kNan);
  result.lse.assign(Index(shape.context_tokens * scene.num_heads()), kNan);
  std::vector<KvList> lists;
  const KvList whole = {0, static_cast<int64_t>(work.entries.size())};
  for (size_t tile = 0; tile < work.tiles.size(); ++tile) {
    for (int64_t head = 0; head < scene.num_heads(); ++head) {
      lists.push_back(work.lists_by_head.empty() ? whole : work.lists_by_head[Index(head)]);
    }
  }
  const PrefillAttentionArgs args = {.common = scene.Common(work.entries, result.out.data(), result.lse.data()),
                                     .tiles = work.tiles.data(),
                                     .lists = lists.data(),
                                     .num_tiles = static_cast<int64_t>(work.tiles.size()),
                                     .kept_ranges = work.kept_ranges.empty() ? nullptr : work.kept_ranges.data(),
                                     .kept_blocks = work.kept_blocks.data()};
  RunShuffled(level.prefill_attention, args, random);
  return result;
}

void KeepRandomBlocks(const AttentionScene& scene, AttentionWork* work, Random* random) {
  const int64_t block_entries = MaskBlockEntries(scene.shape().page_tokens);
  for (size_t tile = 0; tile < work->tiles.size(); ++tile) {
    for (int64_t head = 0; head < scene.num_heads(); ++head) {
      const auto num_entries = work->lists_by_head.empty() ? static_cast<int64_t>(work->entries.size())
                                                           : work->lists_by_head[Index(head)].num_entries;
      const int64_t begin = static_cast<int64_t>(work->kept_blocks.size());
      if (random->OneIn(4)) {
        work->kept_ranges.push_back({.begin = 1 << 30, .num_blocks = kAllBlocks});
        continue;
      }
      for (int32_t block = 0; block * block_entries < num_entries; ++block) {
        if (random->OneIn(2)) work->kept_blocks.push_back(block);
      }
      work->kept_ranges.push_back({begin, static_cast<int64_t>(work->kept_blocks.size()) - begin});
    }
  }
}

std::vector<PrefillTile> RandomTiles(int64_t begin, int64_t end, int64_t left_window, Random* random) {
  std::vector<PrefillTile> tiles;
  while (begin < end) {
    const int64_t num_queries = random->Integer(1, std::min(end - begin, kPrefillTileQueries));
    tiles.push_back({.row = begin, .num_queries = num_queries, .first_position = begin, .left_window = left_window});
    begin += num_queries;
  }
  return tiles;
}

}  // namespace farspan::kernels
