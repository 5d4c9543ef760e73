// SPDX-License-Identifier: Apache-2.0
// AttentionPlan: the closed vocabulary in which a policy says what one sequence reads in one step, and what kernels
// understand. Data only; positions are logical token positions, never page ids. Free of protobuf.
#pragma once

#include <bitset>
#include <cstdint>
#include <optional>
#include <vector>

#include "engine/base/token_range.h"

namespace farspan {

// A set of plan features, as bits: what a policy uses and what a backend runs.
enum class PlanFeatures : uint32_t {
  kNone = 0,
  kRanges = 1u << 0,             // token ranges read whatever is chosen
  kLeftWindow = 1u << 1,         // a left bound that moves with the query
  kQueryRotation = 1u << 2,      // entries read as if the query stood elsewhere
  kDrop = 1u << 3,               // pages freed while the sequence runs
  kKeyBoundsSelector = 1u << 4,  // blocks chosen by SelectorKey::kKeyBounds, with its side data
};
constexpr PlanFeatures operator|(PlanFeatures a, PlanFeatures b) {
  return static_cast<PlanFeatures>(static_cast<uint32_t>(a) | static_cast<uint32_t>(b));
}
constexpr PlanFeatures operator&(PlanFeatures a, PlanFeatures b) {
  return static_cast<PlanFeatures>(static_cast<uint32_t>(a) & static_cast<uint32_t>(b));
}
// The features that read side data of KV pages.
inline constexpr PlanFeatures kSelectorFeatures = PlanFeatures::kKeyBoundsSelector;
// True when `have` covers every bit of `needed`.
constexpr bool Covers(PlanFeatures have, PlanFeatures needed) {
  return (static_cast<uint32_t>(needed) & ~static_cast<uint32_t>(have)) == 0;
}

// Tokens that the step's queries read, subject to causality and to the left window.
struct ReadRange {
  TokenRange tokens;
  // The query at position t reads the range as if it stood at min(t, query_cap).
  int64_t query_cap = kUnboundedTokens;
  bool ignores_left_window = false;

  friend bool operator==(const ReadRange&, const ReadRange&) = default;
};

// What a query is compared with to score a block; one kernel each.
enum class SelectorKey : uint8_t {
  kKeyBounds,  // channel-wise smallest and largest key of the block: an upper bound of every q . k in it
};

// How the scores of a GQA group's query heads become the one score of their KV head.
enum class GroupReduction : uint8_t {
  kSoftmaxSum,  // each head's scores, unscaled, are softmax-normalised over all complete blocks of the context, those
                // of the plan's ranges included, then summed: a head that looks elsewhere has no say among the
                // candidates
  kRawSum,      // summed as they are
};

// Layers by number, the first being 0. Layers from kMaxMaskedLayers on are in no mask.
inline constexpr int64_t kMaxMaskedLayers = 256;
using LayerMask = std::bitset<kMaxMaskedLayers>;

// Which blocks a decode row reads beside its plan's ranges, chosen on the device, anew in each layer and for each KV
// head: the blocks of the highest scores, equal scores in favour of the lower block. Scores are float32; the choice
// depends on nothing but the row's query and the keys of the candidates. It is data: a policy that only combines these
// values needs no new kernel.
struct Selector {
  SelectorKey key = SelectorKey::kKeyBounds;
  GroupReduction group_reduction = GroupReduction::kSoftmaxSum;
  int64_t block_tokens = 16;  // 16, 32 or 64, whatever the page's size
  // A whole number of blocks, aligned to them; disjoint from the plan's ranges and wholly before the query.
  TokenRange candidates;
  int64_t num_picked = 0;  // blocks read, of each KV head; fewer than the candidates
  LayerMask dense_layers;  // these read every token up to the query instead

  int64_t num_candidates() const { return candidates.size() / block_tokens; }
  friend bool operator==(const Selector&, const Selector&) = default;
};

struct AttentionPlan {
  // Ascending and disjoint; every token is below CacheView::queries.end and resident.
  std::vector<ReadRange> reads;
  // Decode rows only; every token up to the query is resident then.
  std::optional<Selector> selector;
  // Query t reads only tokens j > t - left_window_tokens, except in ranges that ignore it.
  int64_t left_window_tokens = kUnboundedTokens;
  // Tokens that no query after this step reads; pages wholly inside are freed once the step has completed.
  TokenRange drop;

  friend bool operator==(const AttentionPlan&, const AttentionPlan&) = default;
};

}  // namespace farspan
