// SPDX-License-Identifier: Apache-2.0
// The quest policy's arithmetic: what is forced, what may be chosen, and that all of it stays within the budget.
#include <gtest/gtest.h>

#include "engine/attention/field_rules.h"
#include "engine/attention/registry.h"
#include "google/protobuf/text_format.h"
#include "tests/support/status_matchers.h"

namespace farspan {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<std::shared_ptr<const AttentionPolicy>> Create(const std::string& text) {
  v1::AttentionSpec spec;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &spec)) << text;
  return BuiltinPolicies().Create(spec, {.num_layers = 4, .num_heads = 1, .num_kv_heads = 1, .head_dim = 8});
}

AttentionPlan DecodePlan(const AttentionPolicy& policy, int64_t context) {
  return policy.Plan({.queries = {context - 1, context}, .prompt_tokens = 1});
}

int64_t ReadTokens(const AttentionPlan& plan) {
  int64_t tokens = plan.selector ? plan.selector->num_picked * plan.selector->block_tokens : 0;
  for (const ReadRange& range : plan.reads) tokens += range.tokens.size();
  return tokens;
}

TEST(QuestPolicyTest, ReadsSinksRecentAndChosenBlocksWithinTheBudget) {
  const auto policy = *Create("quest { budget_tokens: 512 sink_tokens: 16 recent_tokens: 64 }");
  const AttentionPlan plan = DecodePlan(*policy, 6000);
  ASSERT_TRUE(plan.selector.has_value());
  // The recent tokens begin at 5936, which is a block's first.
  EXPECT_EQ(plan.reads, (std::vector<ReadRange>{{.tokens = {0, 16}}, {.tokens = {5936, 6000}}}));
  EXPECT_EQ(plan.selector->candidates, (TokenRange{16, 5936}));
  EXPECT_EQ(plan.selector->num_picked, 27);
  EXPECT_EQ(ReadTokens(plan), 512);
  EXPECT_TRUE(plan.selector->dense_layers.none());
  EXPECT_EQ(plan.selector->group_reduction, GroupReduction::kSoftmaxSum);
}

TEST(QuestPolicyTest, TheBudgetHoldsAtEveryContext) {
  for (const std::string options : {"budget_tokens: 128", "budget_tokens: 300 block_tokens: 32 sink_tokens: 33",
                                    "budget_tokens: 512 block_tokens: 64 recent_tokens: 100 sink_tokens: 0"}) {
    v1::AttentionSpec spec;
    ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString("quest { " + options + " }", &spec));
    const int64_t budget = spec.quest().budget_tokens();
    const auto policy = *Create("quest { " + options + " }");
    for (int64_t context = 2; context < 3000; ++context) {
      const AttentionPlan plan = DecodePlan(*policy, context);
      if (context <= budget) {
        ASSERT_FALSE(plan.selector.has_value()) << options << " at " << context;
        ASSERT_EQ(ReadTokens(plan), context);
        continue;
      }
      ASSERT_LE(ReadTokens(plan), budget) << options << " at " << context;
      ASSERT_GT(ReadTokens(plan), budget - plan.selector->block_tokens) << options << " at " << context;
    }
  }
}

TEST(QuestPolicyTest, ARatioGrowsWithTheContextFromOneChosenBlockOn) {
  const auto policy = *Create("quest { budget_ratio: 0.25 }");
  EXPECT_EQ(ReadTokens(DecodePlan(*policy, 4000)), 16 + (4000 - 3936) + 57 * 16);
  const AttentionPlan small = DecodePlan(*policy, 200);
  ASSERT_TRUE(small.selector.has_value());
  EXPECT_EQ(small.selector->num_picked, 1);
  EXPECT_FALSE(DecodePlan(*Create("quest { budget_ratio: 1 }").value(), 4000).selector.has_value());
}

TEST(QuestPolicyTest, ThePromptIsComputedAsDense) {
  const auto policy = *Create("quest { budget_tokens: 128 }");
  const auto dense = *Create("dense { }");
  for (const int64_t begin : {0, 512, 999}) {
    const CacheView view = {.queries = {begin, 1000}, .prompt_tokens = 1000};
    EXPECT_EQ(policy->Plan(view), dense->Plan(view));
  }
  EXPECT_EQ(policy->prefill_fingerprint(), dense->prefill_fingerprint());
  EXPECT_NE(policy->decode_fingerprint(), dense->decode_fingerprint());
  EXPECT_EQ(policy->MaxPages(1000, 100), dense->MaxPages(1000, 100));
}

TEST(QuestPolicyTest, TheFirstLayersAreDense) {
  const AttentionPlan plan = DecodePlan(**Create("quest { budget_tokens: 128 dense_layers: 2 }"), 1000);
  EXPECT_EQ(plan.selector->dense_layers, LayerMask(0b11));
}

TEST(QuestPolicyTest, EveryOptionThatChangesTheChoiceChangesTheDecodeFingerprint) {
  const auto fingerprint = [](const std::string& options) {
    return (*Create("quest { " + options + " }"))->decode_fingerprint();
  };
  const KvFingerprint base = fingerprint("");
  EXPECT_EQ(base, fingerprint("budget_tokens: 1024 block_tokens: 16 sink_tokens: 16 recent_tokens: 64"));
  for (const std::string options :
       {"budget_tokens: 1025", "budget_ratio: 0.5", "block_tokens: 32", "group_reduction: GROUP_REDUCTION_RAW_SUM",
        "sink_tokens: 17", "recent_tokens: 65", "dense_layers: 3"}) {
    EXPECT_NE(base, fingerprint(options)) << options;
  }
  EXPECT_NE(fingerprint("budget_ratio: 0.5"), fingerprint("budget_ratio: 0.25"));
}

TEST(QuestPolicyTest, RefusesOptionsByNameRuleAndValue) {
  const auto refused = [](const std::string& options, const std::string& why) {
    EXPECT_THAT(Create("quest { " + options + " }"),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("attention.quest." + why)));
  };
  refused("block_tokens: 48", "block_tokens: must be 16, 32 or 64 tokens, got 48");
  refused("block_tokens: 8", "block_tokens: must be 16, 32 or 64 tokens, got 8");
  refused("block_tokens: -16", "block_tokens: must be 16, 32 or 64 tokens, got -16");
  refused("budget_tokens: 110",
          "budget_tokens: must hold the sinks, the recent tokens and one block, at least 111 tokens, got 110");
  refused("budget_tokens: 0", "budget_tokens: must be at least 1 tokens, got 0");
  refused("budget_ratio: 0", "budget_ratio: must be greater than 0, got 0");
  refused("budget_ratio: 1.5", "budget_ratio: must be at most 1, got 1.5");
  refused("recent_tokens: 0", "recent_tokens: must be at least 1 tokens, got 0");
  EXPECT_THAT(Create("quest { budget_tokens: 111 }"), IsOk());
}

TEST(QuestPolicyTest, TheDefaultBudgetGivesWayToAChosenRatio) {
  v1::AttentionSpec spec;
  spec.mutable_quest()->set_budget_ratio(0.125);
  EXPECT_EQ(WithDefaults(spec).quest().budget_ratio(), 0.125);
  EXPECT_EQ(WithDefaults(spec).quest().block_tokens(), 16);
  spec.mutable_quest()->clear_budget();
  EXPECT_EQ(WithDefaults(spec).quest().budget_tokens(), 1024);
}

}  // namespace
}  // namespace farspan
