// SPDX-License-Identifier: Apache-2.0
#include "tests/simulation/hash_oracle.h"

#include <algorithm>
#include <utility>

#include "engine/base/check.h"
#include "engine/model/hash_model.h"
#include "engine/sampling/sampler.h"

namespace farspan {

HashOracle::HashOracle(const Request& request, int sample, int64_t num_layers)
    : request_(request), sample_(sample), sums_(static_cast<size_t>(num_layers), std::vector<uint64_t>(1, 0)) {
  if (request.sampling.penalises_prompt()) counts_.AddPrompt(request.prompt);
  for (const TokenId token : request.prompt) Append(token);
}

void HashOracle::Append(TokenId token) {
  const int64_t query = num_tokens_++;
  const AttentionPlan plan = request_.policy->Plan(
      {.queries = {.begin = query, .end = query + 1}, .prompt_tokens = static_cast<int64_t>(request_.prompt.size())});
  uint64_t state = HashModel::EmbeddedState(query, token);
  for (size_t layer = 0; layer < sums_.size(); ++layer) {
    std::vector<uint64_t>& sums = sums_[layer];
    sums.push_back(sums.back() + HashModel::KeyHash(query, state));
    uint64_t read = 0;
    if (plan.selector && plan.selector->dense_layers[layer]) {
      read = sums.back();
    } else {
      read = SumRead(plan, query, sums);
      if (plan.selector) read += SumPicked(*plan.selector, state, sums);
    }
    state = HashModel::NextState(state, read);
  }
  top_state_ = state;
}

uint64_t HashOracle::SumRead(const AttentionPlan& plan, int64_t query, const std::vector<uint64_t>& sums) {
  uint64_t read = 0;
  for (const ReadRange& range : plan.reads) {
    int64_t begin = range.tokens.begin;
    if (!range.ignores_left_window && plan.left_window_tokens != kUnboundedTokens) {
      begin = std::max(begin, query - plan.left_window_tokens + 1);
    }
    const int64_t end = std::min(range.tokens.end, query + 1);
    if (begin < end) read += sums[static_cast<size_t>(end)] - sums[static_cast<size_t>(begin)];
  }
  return read;
}

uint64_t HashOracle::SumPicked(const Selector& selector, uint64_t state, const std::vector<uint64_t>& sums) {
  std::vector<std::pair<uint64_t, uint64_t>> blocks;  // rank and sum
  for (int64_t begin = selector.candidates.begin; begin < selector.candidates.end; begin += selector.block_tokens) {
    const uint64_t sum = sums[static_cast<size_t>(begin + selector.block_tokens)] - sums[static_cast<size_t>(begin)];
    blocks.emplace_back(HashModel::BlockRank(state, sum), sum);
  }
  std::stable_sort(blocks.begin(), blocks.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  uint64_t picked = 0;
  for (int64_t i = 0; i < selector.num_picked; ++i) picked += blocks[static_cast<size_t>(i)].second;
  return picked;
}

TokenId HashOracle::Draw() {
  if (request_.sampling.greedy() && !request_.sampling.penalises()) return HashModel::TokenOf(top_state_);
  logits_.resize(static_cast<size_t>(HashModel::kVocabSize));
  HashModel::FillLogits(top_state_, logits_);
  const DrawKey key = {.seed = request_.sampling.seed, .position = num_tokens_, .sample_index = sample_};
  const absl::StatusOr<TokenId> token = SampleToken(request_.sampling, counts_, key, logits_);
  FARSPAN_CHECK(token.ok());
  return *token;
}

TokenId HashOracle::Next() {
  FARSPAN_CHECK(!done_);
  const auto place = static_cast<size_t>(num_generated_++);
  const bool forced = place < request_.forced_tokens.size();
  const TokenId token = forced ? request_.forced_tokens[place] : Draw();
  if (request_.sampling.penalises()) counts_.AddOutput(token);
  const std::vector<TokenId>& stops = request_.stop.stop_token_ids;
  stopped_ = !forced && num_generated_ >= request_.stop.min_tokens &&
             std::find(stops.begin(), stops.end(), token) != stops.end();
  done_ = stopped_ || num_generated_ >= request_.stop.max_tokens;
  if (!done_) Append(token);
  return token;
}

}  // namespace farspan
