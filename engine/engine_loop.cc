// SPDX-License-Identifier: Apache-2.0
#include "engine/engine_loop.h"

#include <algorithm>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/base/log.h"
#include "engine/base/status_macros.h"

namespace farspan {
namespace {

Outcome ShutdownOutcome() {
  return {.reason = FinishReason::kCancelled,
          .status = absl::UnavailableError("the server is shutting down; try another replica")};
}

}  // namespace

EngineLoop::EngineLoop(const EngineConfig& config, EngineParts* parts, EngineInbox* inbox)
    : config_(config),
      parts_(parts),
      inbox_(inbox),
      pool_(parts->kv_cache->num_pages()),
      scheduler_({.max_num_seqs = config.max_num_seqs, .max_num_batched_tokens = config.max_num_batched_tokens},
                 &pool_) {}

EngineLoop::~EngineLoop() = default;

void EngineLoop::Run() {
  while (!inbox_->stopping()) {
    if (Step()) continue;
    inbox_->doorbell()->WaitUntil(scheduler_.NextDeadline());
  }
  DrainInbox();
  scheduler_.EndAll(ShutdownOutcome());
  Step();
}

bool EngineLoop::Step() {
  const SteadyTime start = Now();
  DrainInbox();
  const StepPlan plan = scheduler_.Plan(start);
  if (plan.empty()) {
    FARSPAN_CHECK(!scheduler_.idle() || pool_.num_used() == 0, "pages used while idle: ", pool_.num_used());
    PublishGauges();
    return false;
  }
  Retire(scheduler_.Commit(plan, start));
  PoisonFreedPages();
  ReportStarts(plan);
  if (plan.runs.empty()) return true;
  const BuiltBatch built = BuildBatch(plan, parts_->model->shape(), &scheduler_);
  if (const absl::Status status = RunBatch(built); !status.ok()) {
    Fail(status);
    return true;
  }
  FinishStep(built, start);
  return true;
}

void EngineLoop::DrainInbox() {
  // Read before the submissions: what was accepted before the call to CancelAll is then among them, or here already.
  const bool cancel_all = inbox_->TakeCancelAll();
  for (Submission& submission : inbox_->TakeAll()) {
    scheduler_.Add(std::make_unique<Sequence>(
        static_cast<SequenceId>(next_sequence_id_++), std::move(submission.request), std::move(submission.handle),
        std::move(submission.sink), submission.reserved_pages, parts_->kv_cache->page_tokens()));
  }
  if (cancel_all) scheduler_.EndAll(ShutdownOutcome());
}

void EngineLoop::Retire(std::vector<std::unique_ptr<Sequence>> retired) {
  if (retired.empty()) return;
  for (const std::unique_ptr<Sequence>& sequence : retired) {
    if (!sequence->started()) inbox_->OnLeftQueue(sequence->prompt_tokens());
  }
  // Whoever learns that a request has ended finds its pages returned.
  PublishGauges();
  for (const std::unique_ptr<Sequence>& sequence : retired) {
    RequestStatistics& statistics = sequence->statistics();
    const RequestPhase phase = sequence->phase();
    statistics.finished = Now();
    for (SteadyTime* time : {&statistics.first_step, &statistics.first_token, &statistics.last_token}) {
      if (*time == SteadyTime{}) *time = statistics.finished;
    }
    const Outcome& outcome = *sequence->outcome();
    parts_->metrics->OnRequestFinished({.policy = sequence->request().policy->name(),
                                        .reason = outcome.reason,
                                        .request = &sequence->request(),
                                        .statistics = &statistics,
                                        .longest_sample_tokens = statistics.generated_tokens});
    sequence->Emit(FinishedEvent{.reason = outcome.reason,
                                 .status = outcome.status,
                                 .stop_token = outcome.stop_token,
                                 .phase = phase,
                                 .statistics = statistics});
    inbox_->OnEnded();
  }
}

void EngineLoop::ReportStarts(const StepPlan& plan) {
  for (const SequenceId id : plan.admit) {
    Sequence& sequence = scheduler_.sequence(id);
    inbox_->OnLeftQueue(sequence.prompt_tokens());
    sequence.Emit(
        StartedEvent{.reserved_kv_bytes = sequence.reserved_pages() * parts_->model->shape().kv_bytes_per_page(),
                     .queue_duration = sequence.statistics().first_step - sequence.statistics().arrival});
  }
}

absl::Status EngineLoop::RunBatch(const BuiltBatch& built) {
  FARSPAN_RETURN_IF_ERROR(parts_->model->Forward(built.forward, *parts_->kv_cache));
  return Apply(built);
}

void EngineLoop::Fail(const absl::Status& fault) {
  Log().error("the device has failed: {}", std::string(fault.message()));
  inbox_->PublishFault(fault);
  scheduler_.EndAll(
      {.reason = FinishReason::kError, .status = absl::UnavailableError("the device has failed; try another replica")});
}

void EngineLoop::PoisonFreedPages() {
  if (!config_.poison_freed_pages) return;
  for (int64_t page = 0; page < pool_.num_pages(); ++page) {
    if (pool_.reference_count(static_cast<PageId>(page)) == 0) {
      parts_->kv_cache->PoisonPage(static_cast<PageId>(page));
    }
  }
}

void EngineLoop::PublishGauges() {
  const EngineStats stats = inbox_->stats();
  const EngineGauges gauges = {.requests_waiting = stats.requests_queued,
                               .requests_running = scheduler_.num_running(),
                               .kv_pages_free = pool_.num_free(),
                               .kv_pages_used = pool_.num_used()};
  inbox_->Publish(gauges, num_steps_, Now());
  parts_->metrics->OnGauges(gauges);
}

void EngineLoop::FinishStep(const BuiltBatch& built, SteadyTime start) {
  ++num_steps_;
  StepEvent event = {.duration = Now() - start, .num_sequences = static_cast<int64_t>(built.runs.size())};
  std::set<std::string_view> policies;
  for (const BatchRun& run : built.runs) {
    (run.prefill ? event.prefill_tokens : event.decode_rows) += run.num_tokens;
    policies.insert(scheduler_.sequence(run.id).request().policy->name());
  }
  event.num_policies = static_cast<int64_t>(policies.size());
  parts_->metrics->OnStep(event);
  PublishGauges();
}

}  // namespace farspan
