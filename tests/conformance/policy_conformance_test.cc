// SPDX-License-Identifier: Apache-2.0
// Every registered policy, each under several option sets, through the promises of engine/attention/policy.h.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "engine/attention/registry.h"
#include "engine/base/math.h"
#include "engine/kv/block_table.h"
#include "google/protobuf/text_format.h"
#include "tests/support/status_matchers.h"

namespace farspan {
namespace {

constexpr int64_t kPageTokens = 8;

struct PolicyCase {
  std::string spec;
  std::string covering_spec;  // the same policy with a budget that covers every context of these tests
};

std::vector<PolicyCase> Cases() {
  return {
      {"dense { }", "dense { }"},
      {"window { sink_tokens: 4 window_tokens: 16 }", "window { sink_tokens: 4 window_tokens: 100000 }"},
      {"window { sink_tokens: 0 window_tokens: 1 }", "window { sink_tokens: 0 window_tokens: 100000 }"},
      {"window { sink_tokens: 19 window_tokens: 5 }", "window { sink_tokens: 100000 window_tokens: 1 }"},
      {"window { sink_tokens: 3 window_tokens: 33 positions: POSITIONS_TRUE }", "window { window_tokens: 90000 }"},
      {"quest { budget_tokens: 64 sink_tokens: 16 recent_tokens: 8 }", "quest { budget_tokens: 100000 }"},
      {"quest { budget_tokens: 160 block_tokens: 32 sink_tokens: 5 recent_tokens: 33 dense_layers: 1 }",
       "quest { budget_ratio: 1 }"},
      {"quest { budget_ratio: 0.3 sink_tokens: 0 recent_tokens: 1 group_reduction: GROUP_REDUCTION_RAW_SUM }",
       "quest { budget_tokens: 90000 block_tokens: 64 }"},
  };
}

std::shared_ptr<const AttentionPolicy> MakePolicy(const std::string& text) {
  v1::AttentionSpec spec;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &spec)) << text;
  const ModelShape shape{
      .num_layers = 2, .num_heads = 4, .num_kv_heads = 2, .head_dim = 16, .page_tokens = kPageTokens};
  auto policy = BuiltinPolicies().Create(spec, shape);
  EXPECT_THAT(policy, IsOk());
  return *policy;
}

// Keys that `query` reads under `plan`, each with the position that the query takes for it.
std::map<int64_t, int64_t> VisibleKeys(const AttentionPlan& plan, int64_t query) {
  std::map<int64_t, int64_t> visible;
  for (const ReadRange& range : plan.reads) {
    for (int64_t key = range.tokens.begin; key < std::min(range.tokens.end, query + 1); ++key) {
      const bool in_window = range.ignores_left_window || plan.left_window_tokens == kUnboundedTokens ||
                             key > query - plan.left_window_tokens;
      if (in_window) visible[key] = std::min(query, range.query_cap);
    }
  }
  return visible;
}

// A selector belongs to one decode row, and what it may choose is whole, resident, before the query and in no range.
void ExpectSelectorInView(const AttentionPlan& plan, const CacheView& view, const BlockTable& pages) {
  const Selector& selector = *plan.selector;
  ASSERT_EQ(view.queries.size(), 1);
  ASSERT_GE(view.queries.begin, view.prompt_tokens);
  ASSERT_TRUE(selector.block_tokens == 16 || selector.block_tokens == 32 || selector.block_tokens == 64);
  ASSERT_EQ(selector.candidates.begin % selector.block_tokens, 0);
  ASSERT_EQ(selector.candidates.end % selector.block_tokens, 0);
  ASSERT_LE(selector.candidates.end, view.queries.begin);
  ASSERT_GE(selector.num_picked, 1);
  ASSERT_LT(selector.num_picked, selector.num_candidates());
  for (int64_t key = selector.candidates.begin; key < selector.candidates.end; ++key) ASSERT_TRUE(pages.resident(key));
  for (const ReadRange& range : plan.reads) {
    ASSERT_TRUE(range.tokens.end <= selector.candidates.begin || range.tokens.begin >= selector.candidates.end);
  }
}

class PolicyConformanceTest : public ::testing::TestWithParam<PolicyCase> {
 protected:
  std::shared_ptr<const AttentionPolicy> policy_ = MakePolicy(GetParam().spec);
};

TEST(PolicyConformanceSuite, CoversEveryRegisteredPolicy) {
  std::set<std::string> covered;
  for (const PolicyCase& c : Cases()) covered.insert(std::string(MakePolicy(c.spec)->name()));
  const PolicyRegistry registry = BuiltinPolicies();
  for (const PolicyRegistration& registration : registry.registrations()) {
    EXPECT_TRUE(covered.count(std::string(registration.traits.name)) == 1) << std::string(registration.traits.name);
  }
}

TEST_P(PolicyConformanceTest, PageBoundNeverDecreases) {
  for (int64_t tokens = 1; tokens < 200; ++tokens) {
    for (int64_t chunk = 1; chunk < 70; ++chunk) {
      ASSERT_LE(policy_->MaxPages(tokens, chunk), policy_->MaxPages(tokens + 1, chunk));
      ASSERT_LE(policy_->MaxPages(tokens, chunk), policy_->MaxPages(tokens, chunk + 1));
    }
  }
}

TEST_P(PolicyConformanceTest, SameViewGivesSamePlan) {
  const auto twin = MakePolicy(GetParam().spec);
  for (int64_t end = 1; end < 100; ++end) {
    const CacheView view = {.queries = {end / 2, end}, .prompt_tokens = end};
    EXPECT_EQ(policy_->Plan(view), policy_->Plan(view));
    EXPECT_EQ(policy_->Plan(view), twin->Plan(view));
  }
}

// Walks a prompt in random chunks, then decodes, as the engine would, with a real page pool.
TEST_P(PolicyConformanceTest, ReadsOnlyResidentTokensWithinItsPageBound) {
  std::mt19937 random(20261122);
  for (int round = 0; round < 50; ++round) {
    const int64_t prompt = 1 + static_cast<int64_t>(random() % 150);
    const int64_t total = prompt + static_cast<int64_t>(random() % 60);
    const int64_t max_chunk = 1 + static_cast<int64_t>(random() % 64);
    PagePool pool(policy_->MaxPages(total, max_chunk));
    BlockTable pages(kPageTokens);
    for (int64_t computed = 0; computed < total;) {
      const int64_t left = computed < prompt ? prompt - computed : 1;
      const int64_t chunk = std::min(left, 1 + static_cast<int64_t>(random() % static_cast<uint64_t>(max_chunk)));
      const CacheView view = {.queries = {computed, computed + chunk}, .prompt_tokens = prompt};
      const AttentionPlan plan = policy_->Plan(view);
      for (int64_t missing = pages.PagesMissing(computed + chunk); missing > 0; --missing) {
        std::optional<PageRef> page = pool.Take();
        ASSERT_TRUE(page.has_value()) << "MaxPages is too small at " << computed << " of " << total;
        pages.Append(*std::move(page));
      }
      int64_t previous_end = 0;
      for (const ReadRange& range : plan.reads) {
        ASSERT_GE(range.tokens.begin, previous_end);
        ASSERT_LE(range.tokens.end, computed + chunk);
        previous_end = range.tokens.end;
        for (int64_t key = range.tokens.begin; key < range.tokens.end; ++key) ASSERT_TRUE(pages.resident(key)) << key;
      }
      if (plan.selector) ExpectSelectorInView(plan, view, pages);
      for (int64_t query = computed; query < computed + chunk; ++query) {
        ASSERT_TRUE(VisibleKeys(plan, query).count(query)) << "a query must read its own token";
      }
      pages.Drop(plan.drop);
      computed += chunk;
    }
  }
}

TEST_P(PolicyConformanceTest, WhatAQueryReadsDoesNotDependOnItsChunk) {
  constexpr int64_t kTokens = 120;
  const AttentionPlan whole = policy_->Plan({.queries = {0, kTokens}, .prompt_tokens = kTokens});
  for (int64_t query = 0; query < kTokens; ++query) {
    const auto expected = VisibleKeys(whole, query);
    for (int64_t before : {0, 1, 5, 31}) {
      const int64_t begin = std::max<int64_t>(0, query - before);
      for (int64_t end : {query + 1, std::min(kTokens, query + 9)}) {
        const AttentionPlan plan = policy_->Plan({.queries = {begin, end}, .prompt_tokens = kTokens});
        ASSERT_EQ(VisibleKeys(plan, query), expected) << "query " << query << " chunk " << begin << ".." << end;
      }
    }
  }
}

TEST_P(PolicyConformanceTest, CoveringBudgetPlansAsDense) {
  const auto covering = MakePolicy(GetParam().covering_spec);
  const auto dense = MakePolicy("dense { }");
  for (int64_t end = 1; end < 300; end += 7) {
    for (const CacheView& view : {CacheView{.queries = {end / 3, end}, .prompt_tokens = end},
                                  CacheView{.queries = {end - 1, end}, .prompt_tokens = end / 2}}) {
      EXPECT_EQ(covering->Plan(view), dense->Plan(view));
    }
    EXPECT_EQ(covering->MaxPages(end, 16), dense->MaxPages(end, 16));
  }
}

TEST_P(PolicyConformanceTest, NeedsNameEveryFeatureThatPlansUse) {
  for (int64_t end = 1; end < 200; ++end) {
    const AttentionPlan plan = policy_->Plan({.queries = {end - 1, end}, .prompt_tokens = 1});
    PlanFeatures used = PlanFeatures::kRanges;
    if (plan.left_window_tokens != kUnboundedTokens) used = used | PlanFeatures::kLeftWindow;
    if (!plan.drop.empty()) used = used | PlanFeatures::kDrop;
    if (plan.selector) used = used | PlanFeatures::kKeyBoundsSelector;
    for (const ReadRange& range : plan.reads) {
      if (range.query_cap != kUnboundedTokens) used = used | PlanFeatures::kQueryRotation;
    }
    ASSERT_TRUE(Covers(policy_->needs(), used));
  }
}

TEST_P(PolicyConformanceTest, DescriptionParsesBackToTheSamePolicy) {
  const auto again = MakePolicy(policy_->Describe());
  EXPECT_EQ(again->Describe(), policy_->Describe());
  EXPECT_EQ(again->prefill_fingerprint(), policy_->prefill_fingerprint());
  EXPECT_EQ(again->decode_fingerprint(), policy_->decode_fingerprint());
}

TEST_P(PolicyConformanceTest, OnlyAPolicyThatLeavesPrefillAloneSharesDensesFingerprint) {
  bool prefill_is_dense = true;
  for (int64_t end = 1; end < 200; ++end) {
    const CacheView view = {.queries = {0, end}, .prompt_tokens = end};
    prefill_is_dense = prefill_is_dense && policy_->Plan(view) == MakePolicy("dense { }")->Plan(view);
  }
  if (!prefill_is_dense) {
    EXPECT_NE(policy_->prefill_fingerprint(), KvFingerprint{});
  }
}

INSTANTIATE_TEST_SUITE_P(AllPolicies, PolicyConformanceTest, ::testing::ValuesIn(Cases()), [](const auto& param_info) {
  return std::to_string(param_info.index) + param_info.param.spec.substr(0, param_info.param.spec.find(' '));
});

}  // namespace
}  // namespace farspan
