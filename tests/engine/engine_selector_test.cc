// SPDX-License-Identifier: Apache-2.0
// Requests whose decode rows choose blocks, on the hash model: what is chosen decides the output, so a candidate that
// holds a later token, a wrong page or a wrong count would change it.
#include <gtest/gtest.h>

#include <algorithm>
#include <utility>

#include "engine/attention/registry.h"
#include "google/protobuf/text_format.h"
#include "tests/support/engine_harness.h"
#include "tests/support/status_matchers.h"

namespace farspan {
namespace {

const char kQuest[] = "quest { budget_tokens: 64 sink_tokens: 16 recent_tokens: 8 }";
const char kFirstLayerDense[] = "quest { budget_tokens: 80 sink_tokens: 5 recent_tokens: 20 dense_layers: 1 }";
const char kLargeBlocks[] = "quest { budget_ratio: 0.4 block_tokens: 32 sink_tokens: 0 recent_tokens: 3 }";

// The hash model's arithmetic under a policy's plans, token by token.
class PlanOracle {
 public:
  PlanOracle(const AttentionPolicy& policy, int64_t prompt_tokens) : policy_(policy), prompt_tokens_(prompt_tokens) {}

  // Runs the next token; the token that follows it.
  TokenId Run(TokenId token) {
    const auto position = static_cast<int64_t>(hashes_[0].size());
    uint64_t state = HashModel::EmbeddedState(position, token);
    const AttentionPlan plan = policy_.Plan({.queries = {position, position + 1}, .prompt_tokens = prompt_tokens_});
    for (size_t layer = 0; layer < hashes_.size(); ++layer) {
      hashes_[layer].push_back(HashModel::KeyHash(position, state));
      state = HashModel::NextState(state, SumRead(plan, layer, state));
    }
    return HashModel::TokenOf(state);
  }

 private:
  uint64_t Sum(size_t layer, TokenRange tokens) const {
    uint64_t sum = 0;
    for (int64_t i = tokens.begin; i < tokens.end; ++i) sum += hashes_[layer][static_cast<size_t>(i)];
    return sum;
  }
  uint64_t SumRead(const AttentionPlan& plan, size_t layer, uint64_t state) const {
    if (plan.selector && plan.selector->dense_layers[layer]) {
      return Sum(layer, {0, static_cast<int64_t>(hashes_[layer].size())});
    }
    uint64_t sum = 0;
    for (const ReadRange& range : plan.reads) sum += Sum(layer, range.tokens);
    if (!plan.selector) return sum;
    std::vector<std::pair<uint64_t, uint64_t>> blocks;  // rank, sum
    const TokenRange candidates = plan.selector->candidates;
    for (int64_t begin = candidates.begin; begin < candidates.end; begin += plan.selector->block_tokens) {
      const uint64_t block = Sum(layer, {begin, begin + plan.selector->block_tokens});
      blocks.emplace_back(HashModel::BlockRank(state, block), block);
    }
    std::sort(blocks.rbegin(), blocks.rend());
    for (int64_t i = 0; i < plan.selector->num_picked; ++i) sum += blocks[static_cast<size_t>(i)].second;
    return sum;
  }

  const AttentionPolicy& policy_;
  const int64_t prompt_tokens_;
  std::vector<std::vector<uint64_t>> hashes_{static_cast<size_t>(HashModel::kDefaultLayers)};  // [layer][position]
};

std::vector<TokenId> ExpectedUnder(const Request& request) {
  PlanOracle oracle(*request.policy, static_cast<int64_t>(request.prompt.size()));
  TokenId next = 0;
  for (const TokenId token : request.prompt) next = oracle.Run(token);
  std::vector<TokenId> output;
  while (static_cast<int64_t>(output.size()) < request.stop.max_tokens) {
    output.push_back(next);
    next = oracle.Run(next);
  }
  return output;
}

TEST(EngineSelectorTest, ReadsExactlyWhatItsPlansAndTheModelsChoiceSay) {
  for (const int64_t page_tokens : {8, 16, 32}) {
    for (const int64_t chunk : {7, 64}) {
      EngineHarness harness(
          {.engine = {.max_num_seqs = 4, .max_num_batched_tokens = chunk}, .page_tokens = page_tokens});
      for (const char* attention : {kQuest, kFirstLayerDense, kLargeBlocks}) {
        const Request request = harness.MakeRequest(MakePrompt(203, 1), 70, attention);
        EXPECT_EQ(harness.Generate(request).output->tokens(), ExpectedUnder(request)) << attention;
      }
      EXPECT_EQ(harness.model().num_bad_reads(), 0);
    }
  }
}

TEST(EngineSelectorTest, TheOracleTellsPoliciesApart) {
  EngineHarness harness;
  const Request dense = harness.MakeRequest(MakePrompt(203, 1), 30, "dense { }");
  EXPECT_EQ(ExpectedUnder(dense), ExpectedTokens(MakePrompt(203, 1), 30));
  EXPECT_NE(ExpectedUnder(dense), ExpectedUnder(harness.MakeRequest(MakePrompt(203, 1), 30, kQuest)));
}

TEST(EngineSelectorTest, ABudgetThatCoversTheContextAnswersAsDense) {
  EngineHarness harness;
  const auto quest = harness.Generate(harness.MakeRequest(MakePrompt(300, 2), 40, "quest { budget_tokens: 340 }"));
  const auto dense = harness.Generate(harness.MakeRequest(MakePrompt(300, 2), 40, "dense { }"));
  EXPECT_EQ(quest.output->tokens(), dense.output->tokens());
  EXPECT_EQ(quest.output->finished()->statistics.decode.side_read_bytes, 0);
}

// Preempted requests run their own tokens again, several rows in a step, and must choose as they did the first time.
TEST(EngineSelectorTest, PreemptionNeverChangesTheChoice) {
  EngineHarness harness(
      {.engine = {.max_num_seqs = 8, .max_num_batched_tokens = 48, .poison_freed_pages = true}, .num_pages = 60});
  const std::vector<const char*> policies = {kQuest, kFirstLayerDense, kLargeBlocks, "dense { }"};
  std::vector<Request> requests;
  std::vector<LiveRequest> live;
  for (int i = 0; i < 8; ++i) {
    requests.push_back(harness.MakeRequest(MakePrompt(90 + 9 * i, i), 100, policies[static_cast<size_t>(i) % 4]));
    live.push_back(harness.Submit(requests.back()));
  }
  harness.StepUntilIdle();
  int64_t preemptions = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ(live[i].output->tokens(), ExpectedUnder(requests[i])) << i;
    preemptions += live[i].output->finished()->statistics.preemptions;
  }
  EXPECT_GT(preemptions, 3) << "the pool is too large for this test";
  EXPECT_EQ(harness.model().num_bad_reads(), 0);
}

TEST(EngineSelectorTest, SharesPromptPagesWithDense) {
  EngineHarness harness;
  harness.Generate(harness.MakeRequest(MakePrompt(300, 3), 5, "dense { }"));
  const Request request = harness.MakeRequest(MakePrompt(300, 3), 50, kQuest);
  const LiveRequest quest = harness.Generate(request);
  EXPECT_GE(quest.output->finished()->statistics.cached_prompt_tokens, 288);
  EXPECT_EQ(quest.output->tokens(), ExpectedUnder(request));
}

TEST(EngineSelectorTest, CountsWhatItReadsAndWhatItReadsToChoose) {
  EngineHarness harness({.page_tokens = 16});
  const ModelShape& shape = harness.engine().shape();
  const int64_t layer_bytes = shape.kv_bytes_per_token() / shape.num_layers;
  // One decode row at context 251: 16 sinks, 240 to 250 recent, two of the 14 candidates; 15 complete blocks are
  // scored.
  const auto one = harness.Generate(harness.MakeRequest(MakePrompt(250, 4), 2, kQuest)).output->finished()->statistics;
  const int64_t chosen = 16 + 11 + 2 * 16;
  EXPECT_EQ(one.decode.entries_selected, chosen);
  EXPECT_EQ(one.decode.entries_candidate, 251);
  EXPECT_EQ(one.decode.read_bytes, chosen * shape.kv_bytes_per_token());
  EXPECT_EQ(one.decode.side_read_bytes, 15 * shape.kv_bytes_per_token());
  EXPECT_EQ(one.side_data_bytes, 16 * shape.kv_bytes_per_token()) << "one pair of bounds a page of 16";
  EXPECT_EQ(one.prefill.side_read_bytes, 0);
  // The same with the first of two layers dense; sinks take a whole block, 219 leaves 231 for the recent tokens' block.
  const auto two =
      harness.Generate(harness.MakeRequest(MakePrompt(250, 5), 2, kFirstLayerDense)).output->finished()->statistics;
  const int64_t second = 16 + (251 - 224) + 2 * 16;
  EXPECT_EQ(two.decode.read_bytes, (251 + second) * layer_bytes);
  EXPECT_EQ(two.decode.entries_selected, (251 + second + 1) / 2);
  EXPECT_EQ(two.decode.side_read_bytes, 15 * layer_bytes);
}

}  // namespace
}  // namespace farspan
