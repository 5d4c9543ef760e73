// SPDX-License-Identifier: Apache-2.0
// StepPlanner: one planning of one step, on copies of the counts of pages, seats and rows.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "engine/base/clock.h"
#include "engine/kv/page_pool.h"
#include "engine/kv/prefix_index.h"
#include "engine/sched/fair_queue.h"
#include "engine/sched/page_ledger.h"
#include "engine/sched/prefix_sharing.h"
#include "engine/sched/scheduler.h"
#include "engine/sched/sequence.h"
#include "engine/sched/step_cost.h"
#include "engine/sched/step_plan.h"
#include "engine/sched/waiting_line.h"

namespace farspan {

// What a plan is made from; all of it stays as it is.
struct SchedulerView {
  const SchedulerLimits& limits;
  const std::vector<std::unique_ptr<Sequence>>& waiting;
  const std::vector<std::unique_ptr<Sequence>>& running;
  const PagePool& pool;
  const PrefixIndex& index;
  const FairQueue& fair_queue;
  const StepCost& step_cost;
};

// One thread, for one plan. Counts only ever err towards fewer pages than there will be.
class StepPlanner {
 public:
  StepPlanner(const SchedulerView& view, SteadyTime now);

  StepPlan Plan();

 private:
  // What trying out a preemption changes.
  struct Batch {
    PageLedger pages;
    int64_t seats = 0;                    // left
    int64_t num_running = 0;              // once the plan is carried out
    std::vector<const Sequence*> ranked;  // running and staying, best first
    std::vector<SequenceId> preempted;
  };

  void PlanEnds();
  void PlanUrgent();
  void PlanForks();
  void PlanDecodeRows();
  void AdmitUrgent();
  void PlanChunks();
  void PlanAdmissions();
  void FailHeadIfStuck();

  bool Ends(SequenceId id) const { return ended_.contains(id); }
  bool Preempted(SequenceId id) const;
  bool WaitsForLeader(const Sequence& sequence) const;
  const Sequence* FindRunning(SequenceId id) const;
  // Those that wait, can begin and have a raw priority better than `worse_than`.
  WaitingLine Line(int64_t worse_than) const;
  bool SomebodyCanBegin() const;

  int64_t PagesNow(const Sequence& sequence) const;
  int64_t CopyPages(const Sequence& sequence) const;
  int64_t PromisedPages() const;
  bool Fits(const Sequence& sequence, const PrefixMatch& match) const;
  // Preempts from the end of the ranks until `pages` are free; none that ranks before `sequence` or runs already.
  bool MakeRoom(int64_t pages, const Sequence& sequence);
  void Preempt(const Sequence& victim);
  // Tokens admitted, none if it does not fit.
  int64_t Admit(const Sequence& sequence, const PrefixMatch& match);
  void Run(const Sequence& sequence, int64_t num_tokens, int64_t pages);

  const SchedulerView view_;
  const SteadyTime now_;
  StepPlan plan_;
  Batch batch_;
  int64_t rows_ = 0;    // left in this step
  ChunkBudget chunks_;  // of them, for rows that are no plain decode row
  bool preempted_for_pages_ = false;
  const Sequence* urgent_ = nullptr;  // for whom others were preempted
  absl::flat_hash_set<SequenceId> computing_leaders_;
  absl::flat_hash_set<SequenceId> ended_;                 // retired by this plan
  absl::flat_hash_set<SequenceId> placed_;                // forked or admitted by this plan
  absl::flat_hash_set<SequenceId> forked_;                // leaders of this plan's forks
  absl::flat_hash_map<SequenceId, int64_t> taken_pages_;  // by this plan's runs
};

}  // namespace farspan
