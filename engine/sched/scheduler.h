// SPDX-License-Identifier: Apache-2.0
// Scheduler: continuous batching with chunked prefill in the same step as decodes. Decides as a value, commits in one
// place.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "engine/base/clock.h"
#include "engine/kv/page_pool.h"
#include "engine/sched/admission.h"
#include "engine/sched/sequence.h"
#include "engine/sched/step_plan.h"

namespace farspan {

struct SchedulerLimits {
  int64_t max_num_seqs = 0;
  int64_t max_num_batched_tokens = 0;
};

// Engine thread only. Owns every sequence from Add until the commit that retires it.
class Scheduler {
 public:
  // `pool` outlives the scheduler.
  Scheduler(const SchedulerLimits& limits, PagePool* pool);

  // Queues a sequence whose reserved pages fit the pool. First come, first served.
  void Add(std::unique_ptr<Sequence> sequence);

  // The next step at `now`. Requests that were cancelled, have expired or carry an outcome are retired; every running
  // sequence that can run gets at least its decode row; waiting ones are admitted in order while seats and pages last.
  StepPlan Plan(SteadyTime now) const;

  // Carries out a plan made since the last change; the only code that takes or returns pages. Cannot fail: an admitted
  // sequence's reservation covers what it takes. Retired sequences are handed back, their pages already returned.
  std::vector<std::unique_ptr<Sequence>> Commit(const StepPlan& plan, SteadyTime now);

  Sequence& sequence(SequenceId id);
  // Earliest deadline of any sequence, kNoDeadline without one.
  SteadyTime NextDeadline() const;

  int64_t num_waiting() const { return static_cast<int64_t>(waiting_.size()); }
  int64_t num_running() const { return static_cast<int64_t>(running_.size()); }
  bool idle() const { return waiting_.empty() && running_.empty(); }
  // Gives every live sequence this outcome; the next plan retires them.
  void EndAll(const Outcome& outcome);

 private:
  void PlanRuns(const std::vector<const Sequence*>& running, int64_t* budget, StepPlan* plan) const;
  std::unique_ptr<Sequence> Extract(SequenceId id);
  void TakePages(Sequence* sequence, int64_t end_token);

  const SchedulerLimits limits_;
  PagePool* const pool_;
  Admission admission_;
  std::deque<std::unique_ptr<Sequence>> waiting_;
  std::vector<std::unique_ptr<Sequence>> running_;  // in order of admission
};

}  // namespace farspan
