// SPDX-License-Identifier: Apache-2.0
// One accepted request inside the engine: how far it is, the pages it holds, what it has produced.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "engine/base/ids.h"
#include "engine/base/token_range.h"
#include "engine/kv/block_table.h"
#include "engine/output.h"
#include "engine/request.h"
#include "engine/request_handle.h"
#include "engine/sampling/token_counts.h"

namespace farspan {

// How a request ends: decided once, by whoever sees the reason first.
struct Outcome {
  FinishReason reason = FinishReason::kError;
  absl::Status status;
  std::optional<TokenId> stop_token;
};

// Engine thread only. Two cursors say where it is; everything else about its phase is derived.
class Sequence {
 public:
  Sequence(SequenceId id, Request request, std::shared_ptr<RequestHandle> handle, std::shared_ptr<OutputSink> sink,
           int64_t reserved_pages, int64_t page_tokens);

  SequenceId id() const { return id_; }
  const Request& request() const { return request_; }
  const RequestHandle& handle() const { return *handle_; }
  int64_t prompt_tokens() const { return static_cast<int64_t>(request_.prompt.size()); }
  // Pages that this sequence may hold at most: what admission sets aside.
  int64_t reserved_pages() const { return reserved_pages_; }

  // Tokens known: the prompt and what was generated or forced.
  int64_t num_tokens() const { return prompt_tokens() + num_generated(); }
  int64_t num_generated() const { return static_cast<int64_t>(output_.size()); }
  TokenId token(int64_t position) const;
  // The tokens whose keys and values are in the cache are [0, computed); [computed, computed + in_flight) are being
  // computed by the step in flight.
  int64_t computed() const { return computed_; }
  int64_t in_flight() const { return in_flight_; }
  bool prefilling() const { return computed_ < prompt_tokens(); }
  // Tokens that can be run next, a prefill chunk of the prompt or one decode row.
  int64_t num_runnable() const;
  bool started() const { return statistics_.first_step != SteadyTime{}; }
  RequestPhase phase() const;

  const std::optional<Outcome>& outcome() const { return outcome_; }
  // The first outcome stands.
  void SetOutcome(Outcome outcome);

  // The scheduler's commit moves these.
  BlockTable& block_table() { return block_table_; }
  const BlockTable& block_table() const { return block_table_; }
  TokenRange pending_drop() const { return pending_drop_; }
  void BeginStep(int64_t num_tokens, SteadyTime now);
  void ApplyPendingDrop();
  // Returns every page; the sequence has ended.
  void ReleasePages();

  // The step in flight has completed; `drop` is what its plan lets go, released by the next commit.
  void CompleteStep(TokenRange drop);
  // A token drawn or forced after the last one.
  void AppendToken(TokenId token, SteadyTime now);

  const TokenCounts& counts() const { return counts_; }
  RequestStatistics& statistics() { return statistics_; }
  const RequestStatistics& statistics() const { return statistics_; }
  void Emit(OutputEvent event) { sink_->OnEvent(std::move(event)); }

 private:
  const SequenceId id_;
  const Request request_;
  const std::shared_ptr<RequestHandle> handle_;
  const std::shared_ptr<OutputSink> sink_;
  const int64_t reserved_pages_;

  std::vector<TokenId> output_;
  TokenCounts counts_;
  int64_t computed_ = 0;
  int64_t in_flight_ = 0;
  TokenRange pending_drop_;
  BlockTable block_table_;
  RequestStatistics statistics_;
  std::optional<Outcome> outcome_;
};

}  // namespace farspan
