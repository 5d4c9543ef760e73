// SPDX-License-Identifier: Apache-2.0
#include "tests/simulation/hash_oracle.h"

#include <algorithm>

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
  for (std::vector<uint64_t>& sums : sums_) {
    sums.push_back(sums.back() + HashModel::KeyHash(query, state));
    uint64_t read = 0;
    for (const ReadRange& range : plan.reads) {
      int64_t begin = range.tokens.begin;
      if (!range.ignores_left_window && plan.left_window_tokens != kUnboundedTokens) {
        begin = std::max(begin, query - plan.left_window_tokens + 1);
      }
      const int64_t end = std::min(range.tokens.end, query + 1);
      if (begin < end) read += sums[static_cast<size_t>(end)] - sums[static_cast<size_t>(begin)];
    }
    state = HashModel::NextState(state, read);
  }
  top_state_ = state;
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
