// SPDX-License-Identifier: Apache-2.0
// Every query reads every earlier token: what all other policies are compared with.
#include <memory>
#include <string>

#include "engine/attention/builtin_policies.h"
#include "engine/base/math.h"

namespace farspan {
namespace {

constexpr std::string_view kName = "dense";

class DensePolicy final : public AttentionPolicy {
 public:
  explicit DensePolicy(const ModelShape& shape) : page_tokens_(shape.page_tokens) {}

  std::string_view name() const override { return kName; }
  std::string Describe() const override { return "dense { }"; }
  PolicyMode mode() const override { return PolicyMode::kDense; }
  KvFingerprint prefill_fingerprint() const override { return {}; }
  KvFingerprint decode_fingerprint() const override { return {}; }
  int64_t MaxPages(int64_t tokens, int64_t) const override { return CeilDiv(tokens, page_tokens_); }
  PlanFeatures needs() const override { return PlanFeatures::kRanges; }

  AttentionPlan Plan(const CacheView& view) const override {
    return {.reads = {{.tokens = {.begin = 0, .end = view.queries.end}}}};
  }

 private:
  const int64_t page_tokens_;
};

}  // namespace

PolicyRegistration DenseRegistration() {
  return {.traits = {.name = kName,
                     .summary = "Every query reads every earlier token.",
                     .paper = "",
                     .shares_dense_prompt_pages = true},
          .create = [](const v1::AttentionSpec&,
                       const ModelShape& shape) -> absl::StatusOr<std::shared_ptr<const AttentionPolicy>> {
            return std::make_shared<DensePolicy>(shape);
          }};
}

}  // namespace farspan
