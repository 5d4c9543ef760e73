// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/cpu/portable/softmax_walk.h"

#include <cmath>
#include <limits>

#include "engine/kernels/cpu/attention_walk.h"
#include "engine/kernels/cpu/number_formats.h"
#include "engine/kernels/cpu/portable/lane_dot.h"

namespace farspan::kernels::portable {
namespace {

constexpr float kNegativeInfinity = -std::numeric_limits<float>::infinity();

struct WalkScratch {
  double* cap_cos_sin;  // [rope_dim]
  float* turn;          // [rope_dim]
  float* turned_query;  // [head_dim]
  float* scores;        // [page_tokens]
  float* token;         // [head_dim]
};

WalkScratch CarveScratch(const AttentionCommon& common, void* scratch) {
  WalkScratch parts;
  parts.cap_cos_sin = static_cast<double*>(scratch);
  parts.turn = reinterpret_cast<float*>(parts.cap_cos_sin + common.rope_dim);
  parts.turned_query = parts.turn + common.rope_dim;
  parts.scores = parts.turned_query + common.cache.head_dim;
  parts.token = parts.scores + common.cache.page_tokens;
  return parts;
}

// The token's vector as float32, in place or widened into `buffer`.
const float* LoadToken(const KvLayerView& cache, int64_t plane_offset, int64_t token, float* buffer) {
  const int64_t offset = plane_offset + token * cache.head_dim;
  if (cache.element == KvElement::kF32) return static_cast<const float*>(cache.data) + offset;
  WithKvElement(cache.element, [&]<typename Element>() {
    const Element* values = static_cast<const Element*>(cache.data) + offset;
    for (int64_t i = 0; i < cache.head_dim; ++i) buffer[i] = Widen(values[i]);
  });
  return buffer;
}

// The query as `entry` sees it.
const float* QueryForEntry(const QueryWalk& walk, const KvEntry& entry, const WalkScratch& scratch) {
  const AttentionCommon& common = *walk.common;
  if (walk.position <= entry.query_cap) return walk.q;
  FillCapTable(common, entry.query_cap, scratch.cap_cos_sin);
  FillTurn(scratch.cap_cos_sin, common.rope_cos_sin + walk.row * common.rope_dim, common.rope_dim, scratch.turn);
  TurnQuery(walk.q, scratch.turn, common.rope_dim, common.cache.head_dim, scratch.turned_query);
  return scratch.turned_query;
}

TokenSpan TokensRead(const QueryWalk& walk, const KvEntry& entry) {
  if (!ReadsEntry(entry, walk.head_in_group)) return {0, 0};
  return VisibleTokens(entry, walk.position, walk.left_window);
}

// Scores of the run's visible tokens, at their index in the page; returns the largest, -infinity where none is, NaN
// where one is NaN: a run that cannot be scored shows in the output, not as a run unseen.
float ScoreRun(const QueryWalk& walk, int64_t begin, int64_t end, const WalkScratch& scratch) {
  const AttentionCommon& common = *walk.common;
  const int64_t keys = KeyOffset(common.cache, walk.entries[begin].page, walk.kv_head);
  float maximum = kNegativeInfinity;
  bool any_nan = false;
  for (int64_t e = begin; e < end; ++e) {
    const TokenSpan span = TokensRead(walk, walk.entries[e]);
    if (span.begin >= span.end) continue;
    const float* q = QueryForEntry(walk, walk.entries[e], scratch);
    for (int64_t token = span.begin; token < span.end; ++token) {
      const float* key = LoadToken(common.cache, keys, token, scratch.token);
      const float score = LaneDot(q, key, common.cache.head_dim) * common.scale;
      scratch.scores[token] = score;
      if (score > maximum) maximum = score;
      any_nan = any_nan || std::isnan(score);
    }
  }
  return any_nan ? std::numeric_limits<float>::quiet_NaN() : maximum;
}

void FoldRun(const QueryWalk& walk, int64_t begin, int64_t end, const WalkScratch& scratch, SoftmaxState* state) {
  const KvLayerView& cache = walk.common->cache;
  const float run_maximum = ScoreRun(walk, begin, end, scratch);
  if (run_maximum == kNegativeInfinity) return;
  const float maximum = run_maximum > state->maximum ? run_maximum : state->maximum;
  const float decay = std::exp(state->maximum - maximum);
  state->maximum = maximum;
  for (int64_t i = 0; i < cache.head_dim; ++i) state->out[i] *= decay;
  float run_sum = 0;
  const int64_t values = KeyOffset(cache, walk.entries[begin].page, walk.kv_head) + cache.plane_elements();
  for (int64_t e = begin; e < end; ++e) {
    const TokenSpan span = TokensRead(walk, walk.entries[e]);
    for (int64_t token = span.begin; token < span.end; ++token) {
      const float weight = std::exp(scratch.scores[token] - maximum);
      const float* value = LoadToken(cache, values, token, scratch.token);
      run_sum += weight;
      for (int64_t i = 0; i < cache.head_dim; ++i) state->out[i] += weight * value[i];
    }
  }
  state->denominator = state->denominator * decay + run_sum;
}

}  // namespace

int64_t WalkScratchBytes(const AttentionCommon& common) {
  const int64_t floats = common.rope_dim + 2 * common.cache.head_dim + common.cache.page_tokens;
  return common.rope_dim * static_cast<int64_t>(sizeof(double)) + floats * static_cast<int64_t>(sizeof(float));
}

void ResetState(int64_t head_dim, SoftmaxState* state) {
  state->maximum = kNegativeInfinity;
  state->denominator = 0;
  for (int64_t i = 0; i < head_dim; ++i) state->out[i] = 0;
}

void FoldEntries(const QueryWalk& walk, void* scratch, SoftmaxState* state) {
  const WalkScratch parts = CarveScratch(*walk.common, scratch);
  for (int64_t begin = 0; begin < walk.num_entries;) {
    const int64_t end = PageRunEnd(walk.entries, begin, walk.num_entries);
    FoldRun(walk, begin, end, parts, state);
    begin = end;
  }
}

void FinishState(const SoftmaxState& state, int64_t head_dim, float* out, float* lse) {
  const float inverse = state.denominator > 0 ? 1.0f / state.denominator : 0.0f;
  for (int64_t i = 0; i < head_dim; ++i) out[i] = state.out[i] * inverse;
  if (lse != nullptr) *lse = state.maximum + std::log(state.denominator);
}

}  // namespace farspan::kernels::portable
