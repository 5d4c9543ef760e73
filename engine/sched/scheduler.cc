// SPDX-License-Identifier: Apache-2.0
#include "engine/sched/scheduler.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "engine/base/check.h"
#include "engine/sched/prefix_sharing.h"
#include "engine/sched/step_planner.h"

namespace farspan {
namespace {

auto HasId(SequenceId id) {
  return [id](const std::unique_ptr<Sequence>& sequence) { return sequence->id() == id; };
}

}  // namespace

Scheduler::Scheduler(const SchedulerLimits& limits, PagePool* pool, PrefixIndex* index)
    : limits_(limits), pool_(pool), index_(index) {
  FARSPAN_CHECK(limits.max_num_seqs > 0 && limits.max_num_seqs <= limits.max_num_batched_tokens,
                "max_num_seqs=", limits.max_num_seqs);
}

void Scheduler::Add(std::unique_ptr<Sequence> sequence) {
  FARSPAN_CHECK(sequence->max_pages() <= pool_->num_pages(), "pages=", sequence->max_pages());
  fair_queue_.Enter(sequence->request().tenant);
  waiting_.push_back(std::move(sequence));
}

StepPlan Scheduler::Plan(SteadyTime now) const {
  return StepPlanner({.limits = limits_,
                      .waiting = waiting_,
                      .running = running_,
                      .pool = *pool_,
                      .index = *index_,
                      .fair_queue = fair_queue_,
                      .step_cost = step_cost_},
                     now)
      .Plan();
}

bool Scheduler::RanksBefore(const Sequence& a, const Sequence& b) {
  if (a.request().priority != b.request().priority) return a.request().priority < b.request().priority;
  return a.id() < b.id();
}

Committed Scheduler::Commit(const StepPlan& plan, SteadyTime now) {
  Committed committed;
  for (const auto& sequence : running_) PublishPages(index_, sequence.get());
  for (const StepPlan::Fork& fork : plan.forks) Fork(fork);
  for (const StepPlan::Retirement& retirement : plan.retire) committed.retired.push_back(Retire(retirement));
  for (const auto& sequence : running_) sequence->ApplyPendingDrop();
  for (const SequenceId id : plan.preempt) {
    waiting_.push_back(Extract(id, &running_));
    TouchPages(*waiting_.back(), index_);
    waiting_.back()->Preempt();
  }
  for (const StepPlan::Admission& admission : plan.admit) Admit(admission);
  for (const SequenceId id : plan.overtaken) {
    const auto place = std::find_if(waiting_.begin(), waiting_.end(), HasId(id));
    FARSPAN_CHECK(place != waiting_.end());
    (*place)->CountOvertaking();
  }
  for (const StepPlan::Run& run : plan.runs) Run(run, now, &committed.copies);
  return committed;
}

void Scheduler::Fork(const StepPlan::Fork& fork) {
  const Sequence& leader = sequence(fork.leader);
  running_.push_back(Extract(fork.id, &waiting_));
  running_.back()->Fork(leader);
}

std::unique_ptr<Sequence> Scheduler::Retire(const StepPlan::Retirement& retirement) {
  const bool runs = std::any_of(running_.begin(), running_.end(), HasId(retirement.id));
  std::unique_ptr<Sequence> sequence = Extract(retirement.id, runs ? &running_ : &waiting_);
  sequence->SetOutcome(retirement.outcome);
  TouchPages(*sequence, index_);
  sequence->ReleasePages();
  fair_queue_.Leave(sequence->request().tenant);
  return sequence;
}

void Scheduler::Admit(const StepPlan::Admission& admission) {
  running_.push_back(Extract(admission.id, &waiting_));
  Sequence& sequence = *running_.back();
  AttachPrefix(admission.cached_pages, index_, &sequence);
  if (!sequence.started()) {
    sequence.statistics().cached_prompt_tokens = std::min(sequence.computed(), sequence.prompt_tokens());
  }
}

void Scheduler::Run(const StepPlan::Run& run, SteadyTime now, std::vector<PageCopy>* copies) {
  Sequence& running = sequence(run.id);
  BlockTable& table = running.block_table();
  const int64_t first_page = running.scheduled() / table.page_tokens();
  if (first_page < static_cast<int64_t>(table.pages().size())) {
    // A page that others read as well is written by none of them: this sequence goes on in a copy.
    const PageId shared = table.pages()[static_cast<size_t>(first_page)].page();
    if (pool_->reference_count(shared) > 1) {
      PageRef own = TakePage();
      copies->push_back({.from = shared, .to = own.page()});
      table.Replace(first_page, std::move(own));
    }
  }
  const int64_t end_token = running.scheduled() + run.num_tokens;
  for (int64_t missing = table.PagesMissing(end_token); missing > 0; --missing) table.Append(TakePage());
  FARSPAN_CHECK(table.num_resident_pages() <= running.max_pages(), "pages=", table.num_resident_pages(),
                " max_pages=", running.max_pages());
  fair_queue_.Charge(running.request().tenant, running.TakeUncharged(end_token));
  running.BeginStep(run.num_tokens, now);
}

PageRef Scheduler::TakePage() {
  if (pool_->num_free() == 0) index_->EvictOne();
  std::optional<PageRef> page = pool_->Take();
  FARSPAN_CHECK(page.has_value(), "a plan did not make room for its runs");
  return *std::move(page);
}

void Scheduler::ObserveStep(SteadyDuration duration, const StepWork& work) { step_cost_.Observe(duration, work); }

std::unique_ptr<Sequence> Scheduler::Extract(SequenceId id, SequenceList* list) {
  const auto place = std::find_if(list->begin(), list->end(), HasId(id));
  FARSPAN_CHECK(place != list->end(), "sequence=", static_cast<int64_t>(id));
  std::unique_ptr<Sequence> sequence = std::move(*place);
  list->erase(place);
  return sequence;
}

Sequence& Scheduler::sequence(SequenceId id) {
  Sequence* const found = FindRunning(id);
  FARSPAN_CHECK(found != nullptr, "sequence=", static_cast<int64_t>(id));
  return *found;
}

Sequence* Scheduler::FindRunning(SequenceId id) {
  const auto place = std::find_if(running_.begin(), running_.end(), HasId(id));
  return place == running_.end() ? nullptr : place->get();
}

// Penalties count it.
bool Scheduler::NeedsDrawnTokens() const {
  return std::any_of(running_.begin(), running_.end(), [](const std::unique_ptr<Sequence>& sequence) {
    return sequence->awaits_token() && sequence->num_runnable() > 0 && sequence->request().sampling.penalises();
  });
}

SteadyTime Scheduler::NextDeadline() const {
  SteadyTime next = kNoDeadline;
  for (const auto& sequence : running_) next = std::min(next, sequence->request().deadline);
  for (const auto& sequence : waiting_) {
    next = std::min(next, sequence->request().deadline);
    if (!sequence->group().started()) next = std::min(next, sequence->request().queue_deadline);
  }
  return next;
}

void Scheduler::EndAll(const Outcome& outcome) {
  for (const auto& sequence : waiting_) sequence->SetOutcome(outcome);
  for (const auto& sequence : running_) sequence->SetOutcome(outcome);
}

}  // namespace farspan
