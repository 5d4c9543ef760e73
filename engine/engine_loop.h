// SPDX-License-Identifier: Apache-2.0
// EngineLoop: what the engine thread does, one step at a time: drain, plan, commit, forward, apply.
#pragma once

#include <cstdint>
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

  // One step. False when there was nothing to do.
  bool Step();
  // Steps until the inbox is told to stop, then ends every live request.
  void Run();
  // Until when to sleep after a step that had nothing to do: the past if something has come since.
  SteadyTime SleepUntil();
  EngineAccounting Account() const;

 private:
  void DrainInbox();
  void Accept(Submission submission);
  void Retire(std::vector<std::unique_ptr<Sequence>> retired);
  void Finish(Sequence* sequence);
  void ReportPlan(const StepPlan& plan);
  void ReportStart(Sequence* sequence);
  absl::Status RunBatch(const BuiltBatch& built);
  void Apply(const BuiltBatch& built, std::span<DrawResult> results);
  void ApplyDraws(bool prefill, Sequence* sequence, std::span<DrawResult> results);
  void ReportToken(Sequence* sequence, TokenId token, std::vector<TokenLogprobs> logprobs);
  void DecideOutcome(Sequence* sequence, TokenId token);
  void AbandonStep(const BuiltBatch& built);
  void Fail(const absl::Status& fault);
  void PoisonFreedPages();
  void PublishGauges();
  std::vector<PolicyGauges> GaugesByPolicy() const;
  void FinishStep(const BuiltBatch& built, SteadyTime start);
  SteadyTime Now() const { return parts_->clock->Now(); }

  const EngineConfig config_;
  EngineParts* const parts_;
  EngineInbox* const inbox_;
  PagePool pool_;
  PrefixIndex prefix_index_;
  Scheduler scheduler_;
  int64_t num_steps_ = 0;
  int64_t next_sequence_id_ = 0;
};

}  // namespace farspan
