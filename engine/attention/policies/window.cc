// SPDX-License-Identifier: Apache-2.0
// Attention sinks and a recent window, evicting and token-exact: StreamingLLM (arXiv:2309.17453).
// Query t reads j < S and t - W < j <= t. Sinks are read as from position min(t, S + W - 1), their place in a cache
// that holds nothing else; turning the query gives the same dot products as re-rotating the keys would.
#include <algorithm>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/attention/builtin_policies.h"
#include "engine/attention/fingerprint.h"
#include "engine/base/math.h"

namespace farspan {
namespace {

constexpr std::string_view kName = "window";
constexpr int kVersion = 1;

class WindowPolicy final : public AttentionPolicy {
 public:
  WindowPolicy(int64_t sink_tokens, int64_t window_tokens, bool cache_positions, const ModelShape& shape)
      : sink_tokens_(sink_tokens),
        window_tokens_(window_tokens),
        cache_positions_(cache_positions),
        page_tokens_(shape.page_tokens) {}

  std::string_view name() const override { return kName; }
  std::string Describe() const override {
    return absl::StrCat("window { sink_tokens: ", sink_tokens_, " window_tokens: ", window_tokens_,
                        " positions: ", cache_positions_ ? "POSITIONS_CACHE" : "POSITIONS_TRUE", " }");
  }
  PolicyMode mode() const override { return PolicyMode::kTrainingFree; }
  KvFingerprint prefill_fingerprint() const override {
    return MakeFingerprint(kName, {kVersion, sink_tokens_, window_tokens_, cache_positions_ ? 1 : 0});
  }
  KvFingerprint decode_fingerprint() const override { return prefill_fingerprint(); }

  // Sinks, the window of the chunk's first query, and the chunk; one page more since ranges start inside pages.
  int64_t MaxPages(int64_t tokens, int64_t chunk_tokens) const override {
    const int64_t recent = window_tokens_ - 1 + std::min(chunk_tokens, tokens);
    const int64_t bounded = CeilDiv(sink_tokens_, page_tokens_) + CeilDiv(recent, page_tokens_) + 1;
    return std::min(CeilDiv(tokens, page_tokens_), bounded);
  }

  PlanFeatures needs() const override {
    const PlanFeatures always = PlanFeatures::kRanges | PlanFeatures::kLeftWindow | PlanFeatures::kDrop;
    return cache_positions_ ? always | PlanFeatures::kQueryRotation : always;
  }

  AttentionPlan Plan(const CacheView& view) const override {
    const auto [begin, end] = view.queries;
    if (end <= sink_tokens_ + window_tokens_) return {.reads = {{.tokens = {.begin = 0, .end = end}}}};
    AttentionPlan plan{.left_window_tokens = window_tokens_};
    if (sink_tokens_ > 0) {
      plan.reads.push_back({.tokens = {.begin = 0, .end = sink_tokens_},
                            .query_cap = cache_positions_ ? sink_tokens_ + window_tokens_ - 1 : kUnboundedTokens,
                            .ignores_left_window = true});
    }
    plan.reads.push_back({.tokens = {.begin = std::max(sink_tokens_, begin - window_tokens_ + 1), .end = end}});
    plan.drop = {.begin = sink_tokens_, .end = end - window_tokens_ + 1};
    return plan;
  }

 private:
  const int64_t sink_tokens_;
  const int64_t window_tokens_;
  const bool cache_positions_;
  const int64_t page_tokens_;
};

}  // namespace

PolicyRegistration WindowRegistration() {
  return {.traits = {.name = kName,
                     .summary = "Attention sinks and a recent window; everything between is forgotten and freed.",
                     .paper = "Efficient Streaming Language Models with Attention Sinks, arXiv:2309.17453",
                     .sparse_prefill = true,
                     .sparse_decode = true,
                     .evicts = true,
                     .version = kVersion},
          .create = [](const v1::AttentionSpec& spec,
                       const ModelShape& shape) -> absl::StatusOr<std::shared_ptr<const AttentionPolicy>> {
            const v1::WindowAttention& options = spec.window();
            return std::make_shared<WindowPolicy>(options.sink_tokens(), options.window_tokens(),
                                                  options.positions() != v1::WindowAttention::POSITIONS_TRUE, shape);
          }};
}

}  // namespace farspan
