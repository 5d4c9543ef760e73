// SPDX-License-Identifier: Apache-2.0
#include "tests/simulation/scenario.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/attention/registry.h"
#include "engine/base/check.h"
#include "engine/model/hash_model.h"
#include "tests/simulation/striped_policy.h"

namespace farspan {
namespace {

using std::chrono::milliseconds;

constexpr TokenId kFirstPrintable = 35;
constexpr int64_t kNumPrintable = 95;

std::shared_ptr<const AttentionPolicy> MakePolicy(const v1::AttentionSpec& spec, const ModelShape& shape) {
  auto policy = BuiltinPolicies().Create(spec, shape);
  FARSPAN_CHECK(policy.ok(), policy.status().ToString());
  return *std::move(policy);
}

// The built-in ones with drawn options, and one that reads what no sensible policy would.
std::vector<std::shared_ptr<const AttentionPolicy>> DrawPolicies(const ModelShape& shape, Choices* choices) {
  v1::AttentionSpec dense;
  dense.mutable_dense();
  std::vector<std::shared_ptr<const AttentionPolicy>> policies = {MakePolicy(dense, shape)};
  for (int i = 0; i < 2; ++i) {
    v1::AttentionSpec window;
    window.mutable_window()->set_sink_tokens(choices->Between(0, 9));
    window.mutable_window()->set_window_tokens(choices->Between(1, 40));
    policies.push_back(MakePolicy(window, shape));
  }
  v1::AttentionSpec quest;
  quest.mutable_quest()->set_budget_ratio(static_cast<double>(choices->Between(1, 8)) / 10);
  quest.mutable_quest()->set_sink_tokens(choices->Between(0, 1));
  quest.mutable_quest()->set_recent_tokens(choices->Between(1, 20));
  quest.mutable_quest()->set_dense_layers(choices->Between(0, 1));
  policies.push_back(MakePolicy(quest, shape));
  policies.push_back(MakeStripedPolicy(choices->Between(1, 12), shape.page_tokens));
  return policies;
}

}  // namespace

Scenario::Scenario(Choices* choices) : choices_(choices) {
  constexpr int64_t kPageTokens[] = {4, 8, 16};
  page_tokens_ = kPageTokens[choices->Below(3)];
  num_pages_ = choices->Between(3, choices->OneIn(3) ? 64 : 20);
  max_context_tokens_ = std::min<int64_t>(num_pages_ * page_tokens_, choices->Between(16, 160));
  engine_.max_num_batched_tokens = choices->Between(1, choices->OneIn(2) ? 12 : 64);
  engine_.max_num_seqs = std::min<int64_t>(engine_.max_num_batched_tokens, choices->Between(1, 12));
  engine_.max_num_queued_requests = choices->Between(1, 24);
  engine_.max_num_queued_tokens = choices->Between(40, 1000);
  engine_.max_num_queued_requests_per_tenant = choices->Between(1, 24);
  engine_.prefix_caching = !choices->OneIn(4);
  if (choices->OneIn(4)) engine_.max_inter_token_latency = std::chrono::microseconds(choices->Between(100, 900));
  engine_.priority_ageing = milliseconds(choices->Between(1, 200));
  engine_.poison_freed_pages = true;
  arrival_spacing_ = choices->Between(1, 12);
  cancel_spacing_ = choices->OneIn(3) ? 1 << 20 : choices->Between(5, 60);
  num_tenants_ = choices->Between(1, 3);
  deadlines_ = choices->OneIn(2);
  memory_runs_out_ = choices->OneIn(6);
  if (choices->OneIn(16)) fault_at_step_ = choices->Between(1, 400);
  if (choices->OneIn(12)) nan_position_ = choices->Between(0, max_context_tokens_);
  for (int64_t i = choices->Between(1, 3); i > 0; --i) {
    std::vector<TokenId>& document = documents_.emplace_back();
    while (std::ssize(document) < max_context_tokens_) {
      document.push_back(static_cast<TokenId>(choices->Below(HashModel::kVocabSize)));
    }
  }
  max_steps_in_flight_ = choices->Between(1, 2);
  policies_ = DrawPolicies(HashModel::Shape(page_tokens_, max_context_tokens_), choices);
}

std::vector<TokenId> Scenario::DrawPrompt() {
  const int64_t longest = max_context_tokens_ - 1;
  const int64_t length = choices_->Between(1, choices_->OneIn(4) ? longest : std::min<int64_t>(longest, 24));
  const std::vector<TokenId>& document = documents_[static_cast<size_t>(choices_->Below(std::ssize(documents_)))];
  const int64_t shared = choices_->OneIn(4) ? 0 : choices_->Between(0, length);
  std::vector<TokenId> prompt(document.begin(), document.begin() + shared);
  while (std::ssize(prompt) < length) prompt.push_back(static_cast<TokenId>(choices_->Below(HashModel::kVocabSize)));
  return prompt;
}

Request Scenario::DrawRequest(int64_t number, SteadyTime now) {
  Request request;
  request.id = absl::StrCat(number);
  request.prompt = DrawPrompt();
  const int64_t room = max_context_tokens_ - std::ssize(request.prompt);
  request.stop.max_tokens = choices_->Between(1, std::min<int64_t>(room, choices_->OneIn(4) ? 80 : 20));
  request.policy = policies_[static_cast<size_t>(choices_->Below(std::ssize(policies_)))];
  DrawSampling(&request);
  DrawLimits(&request, now);
  request.tenant = absl::StrCat("tenant", choices_->Below(num_tenants_));
  if (choices_->OneIn(3)) request.priority = static_cast<int>(choices_->Between(-2, 2));
  request.use_prefix_cache = !choices_->OneIn(8);
  request.arrival = now;
  return request;
}

void Scenario::DrawSampling(Request* request) {
  request->sampling.temperature = 0;
  if (choices_->OneIn(5)) {
    request->sampling.temperature = 1;
    request->sampling.seed = static_cast<uint64_t>(choices_->Below(1000));
  }
  if (choices_->OneIn(10)) request->sampling.repetition_penalty = 1.3;
  if (choices_->OneIn(10)) request->sampling.frequency_penalty = 0.7;
  if (choices_->OneIn(10)) request->logprobs = 1;
  if (choices_->OneIn(16)) request->prompt_logprobs = 1;
  if (choices_->OneIn(16)) {
    for (int64_t i = 0; i < request->stop.max_tokens; ++i) {
      request->forced_tokens.push_back(static_cast<TokenId>(choices_->Below(HashModel::kVocabSize)));
    }
    return;
  }
  if (choices_->OneIn(6)) request->num_samples = static_cast<int>(choices_->Between(2, 4));
  std::vector<TokenId>& stops = request->stop.stop_token_ids;
  for (int64_t i = choices_->Below(5); i > 0; --i) {
    stops.push_back(kFirstPrintable + static_cast<TokenId>(choices_->Below(kNumPrintable)));
  }
  std::sort(stops.begin(), stops.end());
  stops.erase(std::unique(stops.begin(), stops.end()), stops.end());
  if (choices_->OneIn(4)) request->stop.min_tokens = choices_->Below(request->stop.max_tokens + 1);
}

void Scenario::DrawLimits(Request* request, SteadyTime now) {
  if (!deadlines_) return;
  if (choices_->OneIn(4)) request->deadline = now + milliseconds(choices_->Between(0, 60));
  if (choices_->OneIn(4)) request->queue_deadline = now + milliseconds(choices_->Between(0, 20));
}

std::optional<int64_t> Scenario::DrawStopString(const Request& request) {
  if (!request.forced_tokens.empty() || !choices_->OneIn(12)) return std::nullopt;
  return choices_->Between(1, request.stop.max_tokens);
}

}  // namespace farspan
