// SPDX-License-Identifier: Apache-2.0
#include "engine/sched/scheduler.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/base/check.h"

namespace farspan {
namespace {

const char* PhaseName(RequestPhase phase) {
  switch (phase) {
    case RequestPhase::kQueued:
      return "queue";
    case RequestPhase::kPrefill:
      return "prefill";
    case RequestPhase::kDecode:
      return "decode";
  }
  return "";
}

// How the sequence must end now, if it must.
std::optional<Outcome> OutcomeAt(const Sequence& sequence, SteadyTime now) {
  if (sequence.outcome()) return sequence.outcome();
  if (sequence.handle().stopped(0)) return Outcome{.reason = FinishReason::kStop};
  if (sequence.handle().cancelled()) {
    return Outcome{.reason = FinishReason::kCancelled, .status = absl::CancelledError("the request was cancelled")};
  }
  if (sequence.request().deadline <= now) {
    return Outcome{
        .reason = FinishReason::kDeadline,
        .status = absl::DeadlineExceededError(absl::StrCat("the deadline passed in phase ", PhaseName(sequence.phase()),
                                                           " after ", sequence.num_generated(), " tokens"))};
  }
  return std::nullopt;
}

}  // namespace

Scheduler::Scheduler(const SchedulerLimits& limits, PagePool* pool)
    : limits_(limits), pool_(pool), admission_(limits.max_num_seqs, pool->num_pages()) {
  FARSPAN_CHECK(limits.max_num_seqs > 0 && limits.max_num_seqs <= limits.max_num_batched_tokens,
                "max_num_seqs=", limits.max_num_seqs);
}

void Scheduler::Add(std::unique_ptr<Sequence> sequence) {
  FARSPAN_CHECK(sequence->reserved_pages() <= pool_->num_pages(), "pages=", sequence->reserved_pages());
  waiting_.push_back(std::move(sequence));
}

StepPlan Scheduler::Plan(SteadyTime now) const {
  StepPlan plan;
  Admission admission = admission_;
  std::vector<const Sequence*> running;
  for (const auto& sequence : running_) {
    if (std::optional<Outcome> outcome = OutcomeAt(*sequence, now)) {
      plan.retire.push_back({sequence->id(), *std::move(outcome)});
      admission.Return(sequence->reserved_pages());
    } else {
      running.push_back(sequence.get());
    }
  }
  int64_t budget = limits_.max_num_batched_tokens;
  PlanRuns(running, &budget, &plan);
  bool blocked = false;
  for (const auto& sequence : waiting_) {
    if (std::optional<Outcome> outcome = OutcomeAt(*sequence, now)) {
      plan.retire.push_back({sequence->id(), *std::move(outcome)});
      continue;
    }
    blocked = blocked || budget == 0 || !admission.Fits(sequence->reserved_pages());
    if (blocked) continue;
    admission.Take(sequence->reserved_pages());
    const int64_t num_tokens = std::min(budget, sequence->num_runnable());
    budget -= num_tokens;
    plan.admit.push_back(sequence->id());
    plan.runs.push_back({sequence->id(), num_tokens});
  }
  return plan;
}

void Scheduler::PlanRuns(const std::vector<const Sequence*>& running, int64_t* budget, StepPlan* plan) const {
  for (const bool prefilling : {false, true}) {
    for (const Sequence* sequence : running) {
      if (sequence->prefilling() != prefilling) continue;
      const int64_t num_tokens = std::min(*budget, sequence->num_runnable());
      if (num_tokens == 0) continue;
      *budget -= num_tokens;
      plan->runs.push_back({sequence->id(), num_tokens});
    }
  }
}

std::vector<std::unique_ptr<Sequence>> Scheduler::Commit(const StepPlan& plan, SteadyTime now) {
  std::vector<std::unique_ptr<Sequence>> retired;
  for (const StepPlan::Retirement& retirement : plan.retire) {
    std::unique_ptr<Sequence> sequence = Extract(retirement.id);
    sequence->SetOutcome(retirement.outcome);
    sequence->ReleasePages();
    retired.push_back(std::move(sequence));
  }
  for (const SequenceId id : plan.admit) {
    const auto place = std::find_if(waiting_.begin(), waiting_.end(), [id](const auto& s) { return s->id() == id; });
    FARSPAN_CHECK(place != waiting_.end());
    admission_.Take((*place)->reserved_pages());
    running_.push_back(std::move(*place));
    waiting_.erase(place);
  }
  for (const StepPlan::Run& run : plan.runs) {
    Sequence& running = sequence(run.id);
    running.ApplyPendingDrop();
    TakePages(&running, running.computed() + run.num_tokens);
    running.BeginStep(run.num_tokens, now);
  }
  return retired;
}

std::unique_ptr<Sequence> Scheduler::Extract(SequenceId id) {
  const auto is_it = [id](const auto& sequence) { return sequence->id() == id; };
  if (const auto place = std::find_if(running_.begin(), running_.end(), is_it); place != running_.end()) {
    std::unique_ptr<Sequence> sequence = std::move(*place);
    running_.erase(place);
    admission_.Return(sequence->reserved_pages());
    return sequence;
  }
  const auto place = std::find_if(waiting_.begin(), waiting_.end(), is_it);
  FARSPAN_CHECK(place != waiting_.end());
  std::unique_ptr<Sequence> sequence = std::move(*place);
  waiting_.erase(place);
  return sequence;
}

void Scheduler::TakePages(Sequence* sequence, int64_t end_token) {
  for (int64_t missing = sequence->block_table().PagesMissing(end_token); missing > 0; --missing) {
    std::optional<PageRef> page = pool_->Take();
    FARSPAN_CHECK(page.has_value(), "a reservation did not cover its sequence");
    sequence->block_table().Append(*std::move(page));
  }
  FARSPAN_CHECK(sequence->block_table().num_resident_pages() <= sequence->reserved_pages(),
                "pages=", sequence->block_table().num_resident_pages(), " reserved=", sequence->reserved_pages());
}

Sequence& Scheduler::sequence(SequenceId id) {
  const auto place = std::find_if(running_.begin(), running_.end(), [id](const auto& s) { return s->id() == id; });
  FARSPAN_CHECK(place != running_.end(), "sequence=", static_cast<int64_t>(id));
  return **place;
}

SteadyTime Scheduler::NextDeadline() const {
  SteadyTime next = kNoDeadline;
  for (const auto& sequence : waiting_) next = std::min(next, sequence->request().deadline);
  for (const auto& sequence : running_) next = std::min(next, sequence->request().deadline);
  return next;
}

void Scheduler::EndAll(const Outcome& outcome) {
  for (const auto& sequence : waiting_) sequence->SetOutcome(outcome);
  for (const auto& sequence : running_) sequence->SetOutcome(outcome);
}

}  // namespace farspan
