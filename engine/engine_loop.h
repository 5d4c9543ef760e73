// SPDX-License-Identifier: Apache-2.0
// EngineLoop: what the engine thread does, one step at a time: drain, plan, commit, begin, apply. Where the model may
// have two steps in flight, a step is planned and begun while the one before it runs, and applied when that has ended.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "engine/batch_builder.h"
#include "engine/engine.h"
#include "engine/engine_accounting.h"
#include "engine/engine_inbox.h"
#include "engine/kv/page_pool.h"
#include "engine/kv/prefix_index.h"
#include "engine/sampling/draw.h"
#include "engine/sched/scheduler.h"

namespace farspan {

// Engine thread only.
class EngineLoop {
 public:
  // All arguments outlive the loop.
  EngineLoop(const EngineConfig& config, EngineParts* parts, EngineInbox* inbox);
  ~EngineLoop();

  // Begins one step and applies the oldest that had to end for it. False when there was nothing to do.
  bool Step();
  // Steps until the inbox is told to stop, then ends every live request.
  void Run();
  // Until when to sleep after a step that had nothing to do: the past if something has come since.
  SteadyTime SleepUntil();
  EngineAccounting Account() const;

 private:
  // What is kept of a step from its begin to its end.
  struct StepInFlight {
    std::vector<BatchRun> runs;
    StepEvent event;
    int64_t prefill_reads = 0;  // as StepWork counts them
    SteadyTime begun{};
    bool ahead = false;  // another one was in flight when it began
  };

  void DrainInbox();
  void Accept(Submission submission);
  void Retire(std::vector<std::unique_ptr<Sequence>> retired);
  void Finish(Sequence* sequence);
  void ReportPlan(const StepPlan& plan);
  void ReportStart(Sequence* sequence);
  bool MayRunAhead(const StepPlan& plan) const;
  void BeginStep(const StepPlan& plan, SteadyTime now);
  void EndOldestStep();
  void Apply(StepInFlight* step, std::span<DrawResult> results);
  bool Overran(const StepInFlight& step, const Sequence* sequence) const;
  void CountStep(const BatchRun& run, Sequence* sequence);
  void ApplyDraws(bool prefill, Sequence* sequence, std::span<DrawResult> results);
  void ReportToken(Sequence* sequence, TokenId token, std::vector<TokenLogprobs> logprobs);
  void DecideOutcome(Sequence* sequence, TokenId token);
  void AbandonSteps(const StepInFlight& failed);
  void Fail(const absl::Status& fault);
  void PoisonFreedPages();
  void PublishGauges();
  std::vector<PolicyGauges> GaugesByPolicy() const;
  StepEvent EventOf(const BuiltBatch& built);
  void FinishStep(StepInFlight step);
  SteadyTime Now() const { return parts_->clock->Now(); }

  const EngineConfig config_;
  EngineParts* const parts_;
  EngineInbox* const inbox_;
  PagePool pool_;
  PrefixIndex prefix_index_;
  Scheduler scheduler_;
  std::deque<StepInFlight> in_flight_;  // oldest first
  SteadyTime last_step_end_{};
  int64_t num_steps_ = 0;
  int64_t next_sequence_id_ = 0;
};

}  // namespace farspan
