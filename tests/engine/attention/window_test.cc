// SPDX-License-Identifier: Apache-2.0
// The window policy against its definition: query t reads j < S and t - W < j <= t.
#include <gtest/gtest.h>

#include <tuple>

#include "engine/attention/registry.h"
#include "google/protobuf/text_format.h"
#include "tests/support/status_matchers.h"

namespace farspan {
namespace {

using ::testing::HasSubstr;

std::shared_ptr<const AttentionPolicy> MakePolicy(const std::string& text, int64_t page_tokens = 4) {
  v1::AttentionSpec spec;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &spec)) << text;
  ModelShape shape{.num_layers = 1, .num_heads = 1, .num_kv_heads = 1, .head_dim = 8, .page_tokens = page_tokens};
  auto policy = BuiltinPolicies().Create(spec, shape);
  EXPECT_THAT(policy, IsOk());
  return *policy;
}

bool Reads(const AttentionPlan& plan, int64_t query, int64_t key) {
  for (const ReadRange& range : plan.reads) {
    if (key < range.tokens.begin || key >= range.tokens.end || key > query) continue;
    if (range.ignores_left_window || plan.left_window_tokens == kUnboundedTokens) return true;
    if (key > query - plan.left_window_tokens) return true;
  }
  return false;
}

TEST(WindowPolicyTest, ReadsExactlySinksAndWindowForAnyChunk) {
  for (const auto& [sinks, window] : {std::tuple{4, 8}, {0, 1}, {1, 1}, {5, 3}, {0, 7}}) {
    const auto policy = MakePolicy("window { sink_tokens: " + std::to_string(sinks) +
                                   " window_tokens: " + std::to_string(window) + " }");
    for (int64_t begin = 0; begin < 30; ++begin) {
      for (int64_t end = begin + 1; end <= 40; ++end) {
        const AttentionPlan plan = policy->Plan({.queries = {begin, end}, .prompt_tokens = end});
        for (int64_t query = begin; query < end; ++query) {
          for (int64_t key = 0; key <= query; ++key) {
            ASSERT_EQ(Reads(plan, query, key), key < sinks || key > query - window)
                << "sinks " << sinks << " window " << window << " chunk " << begin << ".." << end << " query " << query
                << " key " << key;
          }
        }
      }
    }
  }
}

TEST(WindowPolicyTest, IsDensesPlanUntilTheWindowIsFull) {
  const auto window = MakePolicy("window { sink_tokens: 4 window_tokens: 28 }");
  const auto dense = MakePolicy("dense { }");
  for (int64_t end = 1; end <= 32; ++end) {
    EXPECT_EQ(window->Plan({.queries = {end - 1, end}}), dense->Plan({.queries = {end - 1, end}}));
  }
  EXPECT_NE(window->Plan({.queries = {32, 33}}), dense->Plan({.queries = {32, 33}}));
}

TEST(WindowPolicyTest, SinksAreReadFromTheirPlaceInTheCacheUnlessTruePositionsAreAsked) {
  const AttentionPlan cache = MakePolicy("window { sink_tokens: 2 window_tokens: 6 }")->Plan({.queries = {99, 100}});
  ASSERT_EQ(cache.reads.size(), 2u);
  EXPECT_EQ(cache.reads[0].query_cap, 7);
  EXPECT_EQ(cache.reads[1].query_cap, kUnboundedTokens);
  const AttentionPlan real =
      MakePolicy("window { sink_tokens: 2 window_tokens: 6 positions: POSITIONS_TRUE }")->Plan({.queries = {99, 100}});
  EXPECT_EQ(real.reads[0].query_cap, kUnboundedTokens);
}

TEST(WindowPolicyTest, OptionsThatChangeTheCacheChangeTheFingerprint) {
  const auto fingerprint = [](const std::string& text) { return MakePolicy(text)->prefill_fingerprint(); };
  const KvFingerprint base = fingerprint("window { }");
  EXPECT_EQ(base, fingerprint("window { sink_tokens: 4 window_tokens: 1024 positions: POSITIONS_CACHE }"));
  EXPECT_NE(base, fingerprint("window { sink_tokens: 5 }"));
  EXPECT_NE(base, fingerprint("window { window_tokens: 1025 }"));
  EXPECT_NE(base, fingerprint("window { positions: POSITIONS_TRUE }"));
  EXPECT_NE(base, fingerprint("dense { }"));
}

TEST(PolicyRegistryTest, RefusesBadOptionsNamingFieldRuleAndValue) {
  const PolicyRegistry registry = BuiltinPolicies();
  const ModelShape shape;
  v1::AttentionSpec spec;
  EXPECT_THAT(registry.Create(spec, shape),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("known: dense, quest, window")));
  spec.mutable_window()->set_window_tokens(0);
  EXPECT_THAT(registry.Create(spec, shape),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("attention.window.window_tokens: must be at least 1 tokens, got 0")));
  spec.mutable_window()->set_window_tokens(8);
  spec.mutable_window()->set_positions(static_cast<v1::WindowAttention::Positions>(99));
  EXPECT_THAT(registry.Create(spec, shape),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("attention.window.positions: unknown value 99; known: POSITIONS_CACHE")));
}

TEST(PolicyRegistryTest, EveryVariantOfTheSpecHasAFactory) {
  const PolicyRegistry registry = BuiltinPolicies();
  const auto& oneof = *v1::AttentionSpec::descriptor()->FindOneofByName("policy");
  ASSERT_EQ(static_cast<size_t>(oneof.field_count()), registry.registrations().size());
  for (int i = 0; i < oneof.field_count(); ++i) {
    EXPECT_THAT(registry.Names(), HasSubstr(oneof.field(i)->name()));
  }
}

}  // namespace
}  // namespace farspan
