// SPDX-License-Identifier: Apache-2.0
#include "tests/simulation/striped_policy.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "engine/attention/fingerprint.h"
#include "engine/base/math.h"

namespace farspan {
namespace {

class StripedPolicy final : public AttentionPolicy {
 public:
  StripedPolicy(int64_t block_tokens, int64_t page_tokens) : block_tokens_(block_tokens), page_tokens_(page_tokens) {}

  std::string_view name() const override { return "striped"; }
  std::string Describe() const override { return absl::StrCat("striped { block_tokens: ", block_tokens_, " }"); }
  PolicyMode mode() const override { return PolicyMode::kTrainingFree; }
  KvFingerprint prefill_fingerprint() const override { return {}; }
  KvFingerprint decode_fingerprint() const override { return MakeFingerprint(name(), {block_tokens_}); }
  int64_t MaxPages(int64_t tokens, int64_t) const override { return CeilDiv(tokens, page_tokens_); }
  PlanFeatures needs() const override { return PlanFeatures::kRanges; }

  AttentionPlan Plan(const CacheView& view) const override {
    const auto [begin, end] = view.queries;
    if (begin < view.prompt_tokens) return {.reads = {{.tokens = {.begin = 0, .end = end}}}};
    AttentionPlan plan;
    const int64_t last_block = begin / block_tokens_;
    for (int64_t block = 0; block <= last_block; ++block) {
      if (block != last_block && ((block * 2654435761 + begin * 40503) >> 7) % 2 == 0) continue;
      plan.reads.push_back(
          {.tokens = {.begin = block * block_tokens_, .end = std::min(end, (block + 1) * block_tokens_)}});
    }
    return plan;
  }

 private:
  const int64_t block_tokens_;
  const int64_t page_tokens_;
};

}  // namespace

std::shared_ptr<const AttentionPolicy> MakeStripedPolicy(int64_t block_tokens, int64_t page_tokens) {
  return std::make_shared<StripedPolicy>(block_tokens, page_tokens);
}

}  // namespace farspan
