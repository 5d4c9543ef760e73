// SPDX-License-Identifier: Apache-2.0
// StepPlanner: one planning of one step, on copies of the counts of pages, seats and rows.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "engine/base/clock.h"
#include "engine/kv/page_pool.h"
#include "engine/kv/prefix_index.h"
#include "engine/sched/fair_queue.h"
#include "engine/sched/prefix_sharing.h"
#include "engine/sched/scheduler.h"
#include "engine/sched/sequence.h"
#include "engine/sched/step_cost.h"
#include "engine/sched/step_plan.h"

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
  struct Candidate {
    const Sequence* sequence = nullptr;
    int64_t priority = 0;  // after ageing
  };

  void PlanEnds();
  void PlanPriorityPreemptions();
  void PlanForks();
  void PlanDecodeRows();
  void PlanChunks();
  void PlanAdmissions();
  void FailHeadIfStuck();

  bool Leaves(SequenceId id) const { return leaving_.contains(id); }
  bool WaitsForLeader(const Sequence& sequence) const;
  const Sequence* FindRunning(SequenceId id) const;
  std::vector<Candidate> Candidates() const;
  size_t BestOf(const std::vector<Candidate>& candidates) const;
  int64_t ServedTokens(const std::string& tenant) const;

  int64_t PagesNow(const Sequence& sequence) const;
  int32_t Holders(PageId page) const;
  void Hold(PageId page);
  void LetGo(PageId page);
  void LetGoOfAll(const Sequence& sequence);
  int64_t IdlePages(const std::vector<PageId>& pages) const;
  int64_t CopyPages(const Sequence& sequence) const;
  int64_t PromisedPages() const;
  bool Fits(const Sequence& sequence, const PrefixMatch& match) const;
  // Preempts from the end of `ranked_` until `pages` are available, none that comes before `sequence`.
  bool MakeRoom(int64_t pages, const Sequence& sequence);
  void Preempt(const Sequence& victim);
  bool Admit(const Sequence& sequence, const PrefixMatch& match);
  void Run(const Sequence& sequence, int64_t num_tokens, int64_t pages);

  const SchedulerView view_;
  const SteadyTime now_;
  StepPlan plan_;
  int64_t seats_ = 0;
  int64_t rows_ = 0;         // left in this step
  int64_t chunk_rows_ = 0;   // of them, for rows that are no plain decode row
  int64_t pages_ = 0;        // free, or free once something leaves the cache
  int64_t num_running_ = 0;  // once the plan is carried out
  bool preempted_for_pages_ = false;
  std::vector<const Sequence*> ranked_;                     // running and staying, best first
  absl::flat_hash_set<SequenceId> leaving_;                 // retired or preempted by this plan
  absl::flat_hash_set<SequenceId> forked_;                  // leaders of this plan's forks
  absl::flat_hash_map<PageId, int32_t> holder_changes_;     // by what leaves and begins with this plan
  absl::flat_hash_map<SequenceId, int64_t> taken_pages_;    // by this plan's runs
  absl::flat_hash_map<std::string, int64_t> given_tokens_;  // by this plan's admissions
};

}  // namespace farspan
