// SPDX-License-Identifier: Apache-2.0
// One sample of an accepted request inside the engine: how far it is, the pages it holds, what it has produced.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "engine/base/ids.h"
#include "engine/base/token_range.h"
#include "engine/kv/block_table.h"
#include "engine/output.h"
#include "engine/request.h"
#include "engine/sampling/token_counts.h"
#include "engine/sched/outcome.h"
#include "engine/sched/page_chain.h"
#include "engine/sched/request_group.h"

namespace farspan {

// Engine thread only. Two cursors say where it is; everything else about its phase is derived.
class Sequence {
 public:
  // `leader` is the sequence of the request's first sample, its own id for that one. `max_pages` bounds what it may
  // ever hold.
  Sequence(SequenceId id, std::shared_ptr<RequestGroup> group, int sample, SequenceId leader, int64_t max_pages,
           int64_t page_tokens, PageChain chain);

  SequenceId id() const { return id_; }
  SequenceId leader() const { return leader_; }
  bool follows() const { return leader_ != id_; }
  int sample() const { return sample_; }
  RequestGroup& group() { return *group_; }
  const RequestGroup& group() const { return *group_; }
  const Request& request() const { return group_->request(); }
  int64_t prompt_tokens() const { return static_cast<int64_t>(request().prompt.size()); }
  int64_t max_pages() const { return max_pages_; }

  // Tokens known: the prompt and what was generated or forced.
  int64_t num_tokens() const { return prompt_tokens() + num_generated(); }
  int64_t num_generated() const { return static_cast<int64_t>(output_.size()); }
  TokenId token(int64_t position) const;
  // Valid until the sequence or `*scratch` changes; a range that lies across the prompt's end is copied there.
  std::span<const TokenId> Tokens(TokenRange range, std::vector<TokenId>* scratch) const;
  // The tokens whose keys and values are in the cache are [0, computed); [computed, computed + in_flight) are being
  // computed by the steps in flight, and the next step goes on at their end, `scheduled`.
  int64_t computed() const { return computed_; }
  int64_t in_flight() const { return in_flight_; }
  int64_t scheduled() const { return computed_ + in_flight_; }
  // The tokens known, and those that steps in flight draw: they can be run before the host knows them.
  int64_t num_expected_tokens() const { return num_tokens() + num_pending_draws_; }
  bool awaits_token() const { return num_pending_draws_ > 0; }
  // Rows below the prompt's end are prefill; later ones are decode rows, several in a step where tokens generated
  // before a preemption are computed again.
  bool prefilling() const { return scheduled() < prompt_tokens(); }
  // Tokens that can be run next. None behind the last token that the request may have.
  int64_t num_runnable() const;
  // The step begun last draws what follows its rows; in which of the batch's logit rows, once BuildBatch has said so.
  bool draws() const { return draws_; }
  int64_t draw_row() const { return draw_row_; }
  void SetDrawRow(int64_t logit_row) { draw_row_ = logit_row; }
  // Prompt tokens that progress was reported of; never falls.
  int64_t reported_prompt_tokens() const { return reported_prompt_tokens_; }
  void ReportPromptTokens(int64_t tokens);
  bool started() const { return statistics_.first_step != SteadyTime{}; }
  RequestPhase phase() const;

  const std::optional<Outcome>& outcome() const { return outcome_; }
  // The first outcome stands.
  void SetOutcome(Outcome outcome);

  // The scheduler's commit moves these.
  BlockTable& block_table() { return block_table_; }
  const BlockTable& block_table() const { return block_table_; }
  PageChain& chain() { return chain_; }
  const PageChain& chain() const { return chain_; }
  TokenRange pending_drop() const { return pending_drop_; }
  void BeginStep(int64_t num_tokens, SteadyTime now);
  void ApplyPendingDrop();
  // Of the rows up to `end_token`, those that its tenant has not been charged for; they count as charged from now on.
  int64_t TakeUncharged(int64_t end_token);
  // Times that a request behind this one was admitted before it.
  int times_overtaken() const { return times_overtaken_; }
  void CountOvertaking() { ++times_overtaken_; }
  // Begins with the leader's pages, as if all of the prompt but its last token had been computed here.
  void Fork(const Sequence& leader);
  // Pages that it holds and its leader counts: full pages of the prompt, shared since the fork.
  int64_t num_inherited_pages() const;
  // The block table was filled with pages that hold the first `tokens`; nothing is computed yet.
  void SkipTo(int64_t tokens);
  // Returns every page: the tokens stay, their keys and values will be computed again.
  void Preempt();
  // Returns every page; the sequence has ended.
  void ReleasePages();

  // The oldest step in flight has completed, in which it had `num_tokens` rows; `drop` is what the step's plan lets go,
  // released by the next commit.
  void CompleteStep(int64_t num_tokens, TokenRange drop);
  // The steps in flight came to nothing; their tokens are computed again.
  void AbandonSteps() { in_flight_ = num_pending_draws_ = 0; }
  // A token drawn or forced after the last one.
  void AppendToken(TokenId token, SteadyTime now);

  const TokenCounts& counts() const { return counts_; }
  RequestStatistics& statistics() { return statistics_; }
  const RequestStatistics& statistics() const { return statistics_; }

 private:
  const SequenceId id_;
  const SequenceId leader_;
  const int sample_;
  const int64_t max_pages_;
  const std::shared_ptr<RequestGroup> group_;

  std::vector<TokenId> output_;
  TokenCounts counts_;
  int64_t computed_ = 0;
  int64_t in_flight_ = 0;
  int64_t num_pending_draws_ = 0;
  bool draws_ = false;
  int64_t draw_row_ = 0;
  int64_t reported_prompt_tokens_ = 0;
  int64_t charged_tokens_ = 0;
  int times_overtaken_ = 0;
  bool forked_ = false;  // since it last held no pages
  TokenRange pending_drop_;
  BlockTable block_table_;
  PageChain chain_;
  RequestStatistics statistics_;
  std::optional<Outcome> outcome_;
};

}  // namespace farspan
