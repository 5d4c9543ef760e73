// SPDX-License-Identifier: Apache-2.0
// A paged KV cache, queries and lists made at random for the attention tests, and the float64 answer to them.
// Tokens that no list names, and pages that nobody owns, hold NaN.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/kernels/args.h"
#include "tests/engine/kernels/kernel_test_support.h"

namespace farspan::kernels {

struct SceneShape {
  int64_t num_kv_heads = 2;
  int64_t group = 3;
  int64_t head_dim = 64;
  int64_t rope_dim = 64;
  int64_t page_tokens = 32;
  int64_t context_tokens = 200;
  KvElement element = KvElement::kF32;
};

SceneShape RandomShape(Random* random, std::span<const KvElement> elements = kWideKvElements);

// One sequence: the keys, values and queries of positions [0, context_tokens).
class AttentionScene {
 public:
  AttentionScene(const SceneShape& shape, Random* random);

  const SceneShape& shape() const { return shape_; }
  int64_t num_heads() const { return shape_.num_kv_heads * shape_.group; }

  // Moves every page to another place in the cache.
  void MovePages(Random* random);
  // Physical page of logical page `index`.
  int32_t page(int64_t index) const { return block_table_[static_cast<size_t>(index)]; }

  // Entries over [begin, end), one a page.
  std::vector<KvEntry> Entries(int64_t begin, int64_t end) const;
  // Ascending ranges with random gaps, masks, caps and left-window exemptions.
  std::vector<KvEntry> RandomEntries(int64_t end, Random* random) const;

  // Turns the key of position j by `delta` positions in the cache, in float64, rounded to the cache's element.
  void TurnKey(int64_t position, int64_t delta);

  // Pointers into the scene; `out`, `lse` and `entries` are the caller's.
  AttentionCommon Common(const std::vector<KvEntry>& entries, float* out, float* lse) const;

  // Float64 attention of query `position`, head `head`, over `entries`: [head_dim] outputs, then the log-sum-exp.
  std::vector<double> Reference(const std::vector<KvEntry>& entries, int64_t position, int64_t head,
                                int64_t left_window) const;

 private:
  float Load(int64_t position, int64_t kv_head, bool is_value, int64_t channel) const;
  void Store(int64_t position, int64_t kv_head, bool is_value, int64_t channel, float value);
  int64_t ElementIndex(int64_t position, int64_t kv_head, bool is_value, int64_t channel) const;
  KvLayerView Cache() const;

  SceneShape shape_;
  std::vector<uint8_t> bytes_;
  std::vector<int32_t> block_table_;
  int64_t num_pages_;
  std::vector<float> q_;  // [context_tokens][num_heads][head_dim]
  std::vector<double> inverse_frequencies_;
  std::vector<float> cos_sin_;  // [context_tokens][rope_dim]
};

// The same tokens as `entries`, cut at more places.
std::vector<KvEntry> CutEntries(const std::vector<KvEntry>& entries, Random* random);

struct AttentionResult {
  std::vector<float> out;  // [context_tokens][num_heads][head_dim], NaN where nothing was written
  std::vector<float> lse;  // [context_tokens][num_heads]

  friend bool operator==(const AttentionResult& a, const AttentionResult& b) {
    return SameBits(a.out, b.out) && SameBits(a.lse, b.lse);
  }
};

// One list for all heads, unless `lists_by_head` names one each: [num_kv_heads] in decode, [num_heads] in prefill.
struct AttentionWork {
  std::vector<int64_t> positions;  // decode: a row each
  std::vector<PrefillTile> tiles;  // prefill
  std::vector<KvEntry> entries;
  std::vector<KvList> lists_by_head;
  std::vector<BlockRange> kept_ranges;  // prefill: [tiles][num_heads]; empty for no block mask
  std::vector<int32_t> kept_blocks;
  int64_t left_window = kNoLeftWindow;  // decode
};

AttentionResult RunDecode(const KernelTable& level, const AttentionScene& scene, const AttentionWork& work,
                          Random* random);
AttentionResult RunPrefill(const KernelTable& level, const AttentionScene& scene, const AttentionWork& work,
                           Random* random);

// Gives the work's tiles a random block mask; about a quarter of the lists are read whole.
void KeepRandomBlocks(const AttentionScene& scene, AttentionWork* work, Random* random);

// Tiles over the queries [begin, end), cut at random places, none longer than kPrefillTileQueries.
std::vector<PrefillTile> RandomTiles(int64_t begin, int64_t end, int64_t left_window, Random* random);

}  // namespace farspan::kernels
