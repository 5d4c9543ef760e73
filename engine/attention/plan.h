// SPDX-License-Identifier: Apache-2.0
// AttentionPlan: the closed vocabulary in which a policy says what one sequence reads in one step, and what kernels
// understand. Data only; positions are logical token positions, never page ids. Free of protobuf.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/base/token_range.h"

namespace farspan {

// A set of plan features, as bits: what a policy uses and what a backend runs.
enum class PlanFeatures : uint32_t {
  kNone = 0,
  kRanges = 1u << 0,         // forced token ranges
  kLeftWindow = 1u << 1,     // a left bound that moves with the query
  kQueryRotation = 1u << 2,  // entries read as if the query stood elsewhere
  kDrop = 1u << 3,           // pages freed while the sequence runs
};
constexpr PlanFeatures operator|(PlanFeatures a, PlanFeatures b) {
  return static_cast<PlanFeatures>(static_cast<uint32_t>(a) | static_cast<uint32_t>(b));
}
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

struct AttentionPlan {
  // Ascending and disjoint; every token is below CacheView::queries.end and resident.
  std::vector<ReadRange> reads;
  // Query t reads only tokens j > t - left_window_tokens, except in ranges that ignore it.
  int64_t left_window_tokens = kUnboundedTokens;
  // Tokens that no query after this step reads; pages wholly inside are freed once the step has completed.
  TokenRange drop;

  friend bool operator==(const AttentionPlan&, const AttentionPlan&) = default;
};

}  // namespace farspan
