// SPDX-License-Identifier: Apache-2.0
#include "engine/sched/sequence.h"

#include <algorithm>
#include <utility>

#include "engine/base/check.h"

namespace farspan {

Sequence::Sequence(SequenceId id, Request request, std::shared_ptr<RequestHandle> handle,
                   std::shared_ptr<OutputSink> sink, int64_t reserved_pages, int64_t page_tokens)
    : id_(id),
      request_(std::move(request)),
      handle_(std::move(handle)),
      sink_(std::move(sink)),
      reserved_pages_(reserved_pages),
      block_table_(page_tokens) {
  FARSPAN_CHECK(!request_.prompt.empty());
  if (request_.sampling.penalises_prompt()) counts_.AddPrompt(request_.prompt);
  statistics_.prompt_tokens = prompt_tokens();
  statistics_.arrival = request_.arrival;
}

TokenId Sequence::token(int64_t position) const {
  return position < prompt_tokens() ? request_.prompt[static_cast<size_t>(position)]
                                    : output_[static_cast<size_t>(position - prompt_tokens())];
}

int64_t Sequence::num_runnable() const {
  if (outcome_) return 0;
  return prefilling() ? prompt_tokens() - computed_ : num_tokens() - computed_;
}

RequestPhase Sequence::phase() const {
  if (!started()) return RequestPhase::kQueued;
  return output_.empty() ? RequestPhase::kPrefill : RequestPhase::kDecode;
}

void Sequence::SetOutcome(Outcome outcome) {
  if (!outcome_) outcome_ = std::move(outcome);
}

void Sequence::BeginStep(int64_t num_tokens, SteadyTime now) {
  FARSPAN_CHECK(in_flight_ == 0 && num_tokens > 0 && num_tokens <= num_runnable(), "num_tokens=", num_tokens);
  if (!started()) statistics_.first_step = now;
  in_flight_ = num_tokens;
}

void Sequence::ApplyPendingDrop() {
  statistics_.evicted_tokens += block_table_.Drop(pending_drop_);
  pending_drop_ = {};
}

void Sequence::ReleasePages() {
  statistics_.resident_tokens = std::max<int64_t>(0, computed_ - statistics_.evicted_tokens);
  statistics_.logical_tokens = computed_;
  block_table_.Clear();
}

void Sequence::CompleteStep(TokenRange drop) {
  computed_ += in_flight_;
  in_flight_ = 0;
  pending_drop_ = drop;
}

void Sequence::AppendToken(TokenId token, SteadyTime now) {
  FARSPAN_CHECK(computed_ == num_tokens() && in_flight_ == 0, "computed=", computed_);
  if (output_.empty()) statistics_.first_token = now;
  statistics_.last_token = now;
  output_.push_back(token);
  if (request_.sampling.penalises()) counts_.AddOutput(token);
  statistics_.generated_tokens = num_generated();
}

}  // namespace farspan
