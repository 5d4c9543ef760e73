// SPDX-License-Identifier: Apache-2.0
// Blocks chosen anew by each generated token, from bounds on their keys: Quest (arXiv:2406.10774).
// The prompt is computed as dense. A generated token at context n reads the sinks, the recent tokens and, in each layer
// and for each KV head, the candidate blocks between them whose bound on q . k is highest, all within one budget.
#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cmath>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/attention/builtin_policies.h"
#include "engine/attention/fingerprint.h"
#include "engine/base/math.h"
#include "engine/base/status_macros.h"

namespace farspan {
namespace {

constexpr std::string_view kName = "quest";
constexpr int kVersion = 1;

// Sinks in whole blocks, the recent tokens from the start of their first block, and one block to choose: what every
// generated token reads at most when nothing more is asked for.
int64_t SmallestBudgetTokens(const v1::QuestAttention& options) {
  const int64_t block = options.block_tokens();
  return RoundUp(options.sink_tokens(), block) + options.recent_tokens() + block - 1 + block;
}

// As few digits as tell the number from every other.
std::string Digits(double number) {
  std::array<char, 32> digits;
  return std::string(digits.data(), std::to_chars(digits.data(), digits.data() + digits.size(), number).ptr);
}

class QuestPolicy final : public AttentionPolicy {
 public:
  QuestPolicy(const v1::QuestAttention& options, const ModelShape& shape)
      : options_(options), page_tokens_(shape.page_tokens) {
    for (int64_t layer = 0; layer < std::min(options.dense_layers(), kMaxMaskedLayers); ++layer) {
      dense_layers_.set(static_cast<size_t>(layer));
    }
  }

  std::string_view name() const override { return kName; }
  std::string Describe() const override {
    const std::string budget = options_.has_budget_ratio()
                                   ? absl::StrCat("budget_ratio: ", Digits(options_.budget_ratio()))
                                   : absl::StrCat("budget_tokens: ", options_.budget_tokens());
    return absl::StrCat("quest { ", budget, " block_tokens: ", options_.block_tokens(),
                        " group_reduction: ", v1::GroupReduction_Name(options_.group_reduction()),
                        " sink_tokens: ", options_.sink_tokens(), " recent_tokens: ", options_.recent_tokens(),
                        " dense_layers: ", options_.dense_layers(), " }");
  }
  PolicyMode mode() const override { return PolicyMode::kTrainingFree; }

  // Prompts are computed as under dense.
  KvFingerprint prefill_fingerprint() const override { return {}; }
  KvFingerprint decode_fingerprint() const override {
    const auto ratio_bits = std::bit_cast<int64_t>(options_.has_budget_ratio() ? options_.budget_ratio() : 0.0);
    return MakeFingerprint(kName, {kVersion, options_.has_budget_ratio() ? 0 : options_.budget_tokens(), ratio_bits,
                                   options_.block_tokens(), options_.group_reduction(), options_.sink_tokens(),
                                   options_.recent_tokens(), options_.dense_layers()});
  }

  // Nothing is dropped: the next token may choose any block.
  int64_t MaxPages(int64_t tokens, int64_t) const override { return CeilDiv(tokens, page_tokens_); }
  PlanFeatures needs() const override { return PlanFeatures::kRanges | PlanFeatures::kKeyBoundsSelector; }

  AttentionPlan Plan(const CacheView& view) const override {
    const int64_t context = view.queries.end, block = options_.block_tokens();
    AttentionPlan dense{.reads = {{.tokens = {.begin = 0, .end = context}}}};
    const int64_t budget = BudgetTokens(context);
    if (view.queries.begin < view.prompt_tokens || budget >= context) return dense;
    const TokenRange sinks = {.begin = 0, .end = RoundUp(options_.sink_tokens(), block)};
    const TokenRange recent = {.begin = (context - options_.recent_tokens()) / block * block, .end = context};
    const int64_t num_candidates = TokenRange{sinks.end, recent.begin}.size() / block;
    const int64_t num_picked = std::max<int64_t>(1, (budget - sinks.size() - recent.size()) / block);
    if (num_picked >= num_candidates) return dense;
    AttentionPlan plan{.selector = Selector{.key = SelectorKey::kKeyBounds,
                                            .group_reduction = Reduction(),
                                            .block_tokens = block,
                                            .candidates = {.begin = sinks.end, .end = recent.begin},
                                            .num_picked = num_picked,
                                            .dense_layers = dense_layers_}};
    if (!sinks.empty()) plan.reads.push_back({.tokens = sinks});
    plan.reads.push_back({.tokens = recent});
    return plan;
  }

 private:
  int64_t BudgetTokens(int64_t context) const {
    if (!options_.has_budget_ratio()) return options_.budget_tokens();
    return static_cast<int64_t>(std::floor(options_.budget_ratio() * static_cast<double>(context)));
  }
  GroupReduction Reduction() const {
    return options_.group_reduction() == v1::GROUP_REDUCTION_RAW_SUM ? GroupReduction::kRawSum
                                                                     : GroupReduction::kSoftmaxSum;
  }

  const v1::QuestAttention options_;
  const int64_t page_tokens_;
  LayerMask dense_layers_;
};

absl::Status CheckOptions(const v1::QuestAttention& options) {
  const int64_t block = options.block_tokens();
  if (block != 16 && block != 32 && block != 64) {
    return absl::InvalidArgumentError(
        absl::StrCat("attention.quest.block_tokens: must be 16, 32 or 64 tokens, got ", block));
  }
  const int64_t smallest = SmallestBudgetTokens(options);
  if (!options.has_budget_ratio() && options.budget_tokens() < smallest) {
    return absl::InvalidArgumentError(
        absl::StrCat("attention.quest.budget_tokens: must hold the sinks, the recent tokens and one block, at least ",
                     smallest, " tokens, got ", options.budget_tokens()));
  }
  return absl::OkStatus();
}

}  // namespace

PolicyRegistration QuestRegistration() {
  return {
      .traits = {.name = kName,
                 .summary = "Each generated token reads sinks, recent tokens and the blocks whose keys may match it "
                            "best.",
                 .paper = "Quest: Query-Aware Sparsity for Efficient Long-Context LLM Inference, arXiv:2406.10774",
                 .sparse_decode = true,
                 .shares_dense_prompt_pages = true,
                 .granularity = Granularity::kBlock,
                 .version = kVersion},
      .create = [](const v1::AttentionSpec& spec,
                   const ModelShape& shape) -> absl::StatusOr<std::shared_ptr<const AttentionPolicy>> {
        return std::make_shared<QuestPolicy>(spec.quest(), shape);
      },
      .check = [](const v1::AttentionSpec& spec) { return CheckOptions(spec.quest()); }};
}

}  // namespace farspan
