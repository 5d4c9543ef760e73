// SPDX-License-Identifier: Apache-2.0
#include "engine/sched/sequence.h"

#include <algorithm>
#include <utility>

#include "engine/base/check.h"

namespace farspan {

Sequence::Sequence(SequenceId id, std::shared_ptr<RequestGroup> group, int sample, SequenceId leader, int64_t max_pages,
                   int64_t page_tokens, PageChain chain)
    : id_(id),
      leader_(leader),
      sample_(sample),
      max_pages_(max_pages),
      group_(std::move(group)),
      block_table_(page_tokens),
      chain_(std::move(chain)) {
  if (request().sampling.penalises_prompt()) counts_.AddPrompt(request().prompt);
  statistics_.prompt_tokens = prompt_tokens();
  statistics_.arrival = request().arrival;
}

TokenId Sequence::token(int64_t position) const {
  return position < prompt_tokens() ? request().prompt[static_cast<size_t>(position)]
                                    : output_[static_cast<size_t>(position - prompt_tokens())];
}

std::span<const TokenId> Sequence::Tokens(TokenRange range, std::vector<TokenId>* scratch) const {
  const auto size = static_cast<size_t>(range.size());
  if (range.end <= prompt_tokens()) return std::span(request().prompt).subspan(static_cast<size_t>(range.begin), size);
  if (range.begin >= prompt_tokens()) {
    return std::span(output_).subspan(static_cast<size_t>(range.begin - prompt_tokens()), size);
  }
  scratch->clear();
  for (int64_t position = range.begin; position < range.end; ++position) scratch->push_back(token(position));
  return *scratch;
}

int64_t Sequence::num_runnable() const {
  if (outcome_) return 0;
  if (prefilling()) return prompt_tokens() - scheduled();
  // The host knows beforehand which draw is the last by number.
  if (awaits_token() && num_generated() + num_pending_draws_ >= request().stop.max_tokens) return 0;
  return num_expected_tokens() - scheduled();
}

void Sequence::ReportPromptTokens(int64_t tokens) {
  reported_prompt_tokens_ = std::max(reported_prompt_tokens_, tokens);
}

RequestPhase Sequence::phase() const {
  if (!started()) return RequestPhase::kQueued;
  return output_.empty() ? RequestPhase::kPrefill : RequestPhase::kDecode;
}

void Sequence::SetOutcome(Outcome outcome) {
  if (!outcome_) outcome_ = std::move(outcome);
}

void Sequence::BeginStep(int64_t num_tokens, SteadyTime now) {
  FARSPAN_CHECK(num_tokens > 0 && num_tokens <= num_runnable(), "num_tokens=", num_tokens);
  if (!started()) statistics_.first_step = now;
  in_flight_ += num_tokens;
  draws_ = scheduled() == num_expected_tokens();
  if (draws_) ++num_pending_draws_;
}

int64_t Sequence::TakeUncharged(int64_t end_token) {
  const int64_t uncharged = std::max<int64_t>(0, end_token - std::max(scheduled(), charged_tokens_));
  charged_tokens_ = std::max(charged_tokens_, end_token);
  return uncharged;
}

void Sequence::ApplyPendingDrop() {
  if (block_table_.Drop(pending_drop_) > 0) chain_.Close();
  pending_drop_ = {};
}

void Sequence::Fork(const Sequence& leader) {
  block_table_.ShareFrom(leader.block_table_, prompt_tokens());
  if (block_table_.dropped_tokens() > 0) chain_.Close();
  forked_ = true;
  SkipTo(prompt_tokens() - 1);
}

int64_t Sequence::num_inherited_pages() const {
  if (!forked_) return 0;
  const int64_t full_pages = (prompt_tokens() - 1) / block_table_.page_tokens();
  return std::max<int64_t>(0, full_pages - block_table_.dropped_tokens() / block_table_.page_tokens());
}

void Sequence::SkipTo(int64_t tokens) {
  FARSPAN_CHECK(computed_ == 0 && in_flight_ == 0 && tokens < num_tokens() && block_table_.capacity_tokens() >= tokens,
                "tokens=", tokens, " computed=", computed_);
  computed_ = tokens;
}

void Sequence::Preempt() {
  FARSPAN_CHECK(in_flight_ == 0);
  block_table_.Clear();
  chain_.Reset();
  computed_ = 0;
  forked_ = false;
  pending_drop_ = {};
  ++statistics_.preemptions;
}

void Sequence::ReleasePages() {
  ApplyPendingDrop();
  statistics_.evicted_tokens = block_table_.dropped_tokens();
  statistics_.resident_tokens = computed_ - statistics_.evicted_tokens;
  statistics_.logical_tokens = computed_;
  block_table_.Clear();
}

void Sequence::CompleteStep(int64_t num_tokens, TokenRange drop) {
  FARSPAN_CHECK(num_tokens <= in_flight_, "num_tokens=", num_tokens, " in_flight=", in_flight_);
  computed_ += num_tokens;
  in_flight_ -= num_tokens;
  if (computed_ == this->num_tokens()) --num_pending_draws_;
  pending_drop_ = drop;
}

void Sequence::AppendToken(TokenId token, SteadyTime now) {
  FARSPAN_CHECK(computed_ == num_tokens(), "computed=", computed_);
  if (output_.empty()) statistics_.first_token = now;
  statistics_.last_token = now;
  output_.push_back(token);
  if (request().sampling.penalises()) counts_.AddOutput(token);
  statistics_.generated_tokens = num_generated();
}

}  // namespace farspan
