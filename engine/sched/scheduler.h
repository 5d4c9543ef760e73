// SPDX-License-Identifier: Apache-2.0
// Scheduler: continuous batching with chunked prefill in the same step as decodes, admission by the pages that are
// needed now, preemption by recompute. Decides as a value, commits in one place.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/base/clock.h"
#include "engine/kv/page_pool.h"
#include "engine/kv/prefix_index.h"
#include "engine/sched/fair_queue.h"
#include "engine/sched/sequence.h"
#include "engine/sched/step_cost.h"
#include "engine/sched/step_plan.h"

namespace farspan {

struct SchedulerLimits {
  int64_t max_num_seqs = 0;
  int64_t max_num_batched_tokens = 0;
  int64_t max_steps_in_flight = 1;           // of which a sequence may have rows
  SteadyDuration max_inter_token_latency{};  // zero has no bound
  SteadyDuration priority_ageing = std::chrono::seconds(10);
};

// A page whose content must be copied before the step runs: its next writer shared it.
struct PageCopy {
  PageId from{};
  PageId to{};
};

// What a commit hands to the loop.
struct Committed {
  std::vector<std::unique_ptr<Sequence>> retired;  // their pages already returned
  std::vector<PageCopy> copies;                    // in order
};

// Engine thread only. Owns every sequence from Add until the commit that retires it.
//
// Ahead. Plans go on from where the steps in flight will leave each sequence, were none to end by what they draw. A
// sequence that ends leaves at the next commit though a step in flight has rows of it: that step's ops come before
// those of any step that takes its pages. A plan that preempts or forks is carried out only where nothing is in flight.
//
// Order. Waiting requests: as WaitingLine says. One that does not fit may be passed by up to kMaxOvertaken others; one
// of a better priority than some running requests takes the place of those, where that is enough for it to begin.
// Running requests rank by priority, then arrival. A row without a page takes one from the last in rank, which is
// preempted, unless that one runs in this step already; never from one that ranks before it. The first in rank is never
// preempted for pages, and the others give way to it until it fits the pool alone.
class Scheduler {
 public:
  static constexpr int kMaxOvertaken = 8;

  // `pool` and `index` outlive the scheduler.
  Scheduler(const SchedulerLimits& limits, PagePool* pool, PrefixIndex* index);

  // Queues a sequence whose max_pages() fit the pool; the samples of a request in order, the leader first.
  void Add(std::unique_ptr<Sequence> sequence);

  // The order of running requests, which preemption takes from the end of.
  static bool RanksBefore(const Sequence& a, const Sequence& b);

  // The next step at `now`.
  StepPlan Plan(SteadyTime now) const;

  // Carries out a plan made since the last change; the only code that takes or returns pages and that charges tenants.
  // Cannot fail: the plan has made room.
  Committed Commit(const StepPlan& plan, SteadyTime now);

  // What a step of this shape took, for the plans to come.
  void ObserveStep(SteadyDuration duration, const StepWork& work);

  Sequence& sequence(SequenceId id);     // a running one
  Sequence* FindRunning(SequenceId id);  // null where it does not run
  // Whether some sequence's next draw depends on a token that a step in flight draws, beyond the row that reads it.
  bool NeedsDrawnTokens() const;
  // Earliest instant at which a live sequence must end, kNoDeadline without one.
  SteadyTime NextDeadline() const;

  const std::vector<std::unique_ptr<Sequence>>& waiting() const { return waiting_; }
  const std::vector<std::unique_ptr<Sequence>>& running() const { return running_; }
  int64_t num_waiting() const { return static_cast<int64_t>(waiting_.size()); }
  int64_t num_running() const { return static_cast<int64_t>(running_.size()); }
  bool idle() const { return waiting_.empty() && running_.empty(); }
  // Gives every live sequence this outcome; the next plan retires them.
  void EndAll(const Outcome& outcome);

 private:
  using SequenceList = std::vector<std::unique_ptr<Sequence>>;
  static std::unique_ptr<Sequence> Extract(SequenceId id, SequenceList* list);
  void Fork(const StepPlan::Fork& fork);
  std::unique_ptr<Sequence> Retire(const StepPlan::Retirement& retirement);
  void Admit(const StepPlan::Admission& admission);
  void Run(const StepPlan::Run& run, SteadyTime now, std::vector<PageCopy>* copies);
  PageRef TakePage();

  const SchedulerLimits limits_;
  PagePool* const pool_;
  PrefixIndex* const index_;
  FairQueue fair_queue_;
  StepCost step_cost_;
  SequenceList waiting_;
  SequenceList running_;
};

}  // namespace farspan
