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
      prefix_index_(&pool_),
      scheduler_({.max_num_seqs = config.max_num_seqs,
                  .max_num_batched_tokens = config.max_num_batched_tokens,
                  .max_steps_in_flight = config.max_steps_in_flight,
                  .max_inter_token_latency = config.max_inter_token_latency,
                  .priority_ageing = config.priority_ageing},
                 &pool_, &prefix_index_) {}

EngineLoop::~EngineLoop() = default;

void EngineLoop::Run() {
  while (!inbox_->stopping()) {
    if (Step()) continue;
    inbox_->doorbell()->WaitUntil(scheduler_.NextDeadline());
  }
  DrainInbox();
  scheduler_.EndAll(ShutdownOutcome());
  while (!in_flight_.empty()) EndOldestStep();
  Step();
}

SteadyTime EngineLoop::SleepUntil() {
  return inbox_->doorbell()->TakeRing() ? SteadyTime::min() : scheduler_.NextDeadline();
}

bool EngineLoop::Step() {
  const SteadyTime start = Now();
  DrainInbox();
  StepPlan plan = scheduler_.Plan(start);
  const bool waits = !in_flight_.empty() && !MayRunAhead(plan);
  if (waits) {
    while (!in_flight_.empty()) EndOldestStep();
    // Where there was nothing to plan, a call that begins with what the step drew does.
    plan = plan.empty() ? StepPlan() : scheduler_.Plan(start);
  }
  if (plan.empty()) {
    FARSPAN_CHECK(!scheduler_.idle() || pool_.num_used() == 0, "pages used while idle: ", pool_.num_used());
    PublishGauges();
    return waits;
  }
  Committed committed = scheduler_.Commit(plan, start);
  for (const PageCopy& copy : committed.copies) parts_->kv_cache->CopyPage(copy.from, copy.to);
  Retire(std::move(committed.retired));
  PoisonFreedPages();
  ReportPlan(plan);
  if (!plan.runs.empty()) BeginStep(plan, start);
  if (std::ssize(in_flight_) >= config_.max_steps_in_flight) EndOldestStep();
  if (waits || !plan.runs.empty()) PublishGauges();
  return true;
}

// Preempting takes from a sequence what a step in flight computes, a fork shares it, and penalties count what it draws.
bool EngineLoop::MayRunAhead(const StepPlan& plan) const {
  return !plan.empty() && plan.forks.empty() && plan.preempt.empty() && !scheduler_.NeedsDrawnTokens();
}

void EngineLoop::BeginStep(const StepPlan& plan, SteadyTime now) {
  BuiltBatch built = BuildBatch(plan, parts_->model->shape(), &scheduler_);
  parts_->model->BeginStep(built.forward, built.draws, *parts_->kv_cache);
  StepInFlight step = {.event = EventOf(built), .begun = now, .ahead = !in_flight_.empty()};
  for (const BatchRun& run : built.runs) {
    // The middle one of a chunk's rows reads what is behind it, of what the last one does.
    if (run.prefill) step.prefill_reads += run.num_tokens * (run.traffic.entries_selected - run.num_tokens / 2);
  }
  step.runs = std::move(built.runs);
  in_flight_.push_back(std::move(step));
}

void EngineLoop::EndOldestStep() {
  StepInFlight step = std::move(in_flight_.front());
  in_flight_.pop_front();
  absl::StatusOr<std::vector<DrawResult>> results = parts_->model->EndStep();
  if (absl::IsResourceExhausted(results.status())) {
    Log().error("a step was abandoned: {}", std::string(results.status().message()));
    AbandonSteps(step);
  } else if (!results.ok()) {
    Fail(results.status());
  } else {
    Apply(&step, *results);
    FinishStep(std::move(step));
  }
}

void EngineLoop::DrainInbox() {
  // Read before the submissions: what was accepted before the call to CancelAll is then among them, or here already.
  const bool cancel_all = inbox_->TakeCancelAll();
  for (Submission& submission : inbox_->TakeAll()) Accept(std::move(submission));
  if (cancel_all) scheduler_.EndAll(ShutdownOutcome());
}

void EngineLoop::Accept(Submission submission) {
  auto group = std::make_shared<RequestGroup>(std::move(submission.request), std::move(submission.handle),
                                              std::move(submission.sink));
  const Request& request = group->request();
  const int64_t page_tokens = parts_->kv_cache->page_tokens();
  const auto leader = static_cast<SequenceId>(next_sequence_id_);
  for (int sample = 0; sample < request.num_samples; ++sample) {
    PageChain chain(submission.prompt_keys, static_cast<int64_t>(request.prompt.size()), page_tokens);
    scheduler_.Add(std::make_unique<Sequence>(static_cast<SequenceId>(next_sequence_id_++), group, sample, leader,
                                              submission.max_pages, page_tokens, std::move(chain)));
  }
}

void EngineLoop::Retire(std::vector<std::unique_ptr<Sequence>> retired) {
  if (retired.empty()) return;
  for (const std::unique_ptr<Sequence>& sequence : retired) {
    if (sequence->started()) continue;
    inbox_->OnLeftQueue(sequence->request().tenant, sequence->follows() ? 0 : sequence->prompt_tokens());
  }
  // Whoever learns that a request has ended finds its pages returned.
  PublishGauges();
  for (const std::unique_ptr<Sequence>& sequence : retired) Finish(sequence.get());
}

void EngineLoop::Finish(Sequence* sequence) {
  RequestStatistics& statistics = sequence->statistics();
  const RequestPhase phase = sequence->phase();
  statistics.finished = Now();
  std::optional<FinishedEvent> event =
      sequence->group().EndSample(sequence->sample(), *sequence->outcome(), phase, statistics);
  if (!event) return;
  int64_t longest_sample_tokens = 0;
  for (const SampleOutcome& sample : sequence->group().samples()) {
    longest_sample_tokens = std::max(longest_sample_tokens, sample.generated_tokens);
  }
  parts_->metrics->OnRequestFinished({.policy = sequence->request().policy->name(),
                                      .reason = event->reason,
                                      .request = &sequence->request(),
                                      .statistics = &event->statistics,
                                      .longest_sample_tokens = longest_sample_tokens});
  sequence->group().Emit(*std::move(event));
  inbox_->OnEnded();
}

void EngineLoop::ReportPlan(const StepPlan& plan) {
  for (const StepPlan::Admission& admission : plan.admit) {
    Sequence& sequence = scheduler_.sequence(admission.id);
    if (sequence.statistics().preemptions > 0) continue;
    if (admission.queried_tokens > 0) {
      parts_->metrics->OnPrefixLookup({.policy = sequence.request().policy->name(),
                                       .queried_tokens = admission.queried_tokens,
                                       .hit_tokens = sequence.statistics().cached_prompt_tokens});
    }
    ReportStart(&sequence);
  }
  for (const StepPlan::Fork& fork : plan.forks) {
    // A preempted sample comes back as a fork too, where its leader has just computed their prompt again.
    Sequence& sequence = scheduler_.sequence(fork.id);
    if (sequence.statistics().preemptions == 0) ReportStart(&sequence);
  }
  for (const SequenceId id : plan.preempt) {
    for (const auto& sequence : scheduler_.waiting()) {
      if (sequence->id() == id) parts_->metrics->OnPreempted(sequence->request().policy->name());
    }
  }
}

void EngineLoop::ReportStart(Sequence* sequence) {
  inbox_->OnLeftQueue(sequence->request().tenant, sequence->follows() ? 0 : sequence->prompt_tokens());
  sequence->group().Start({.cached_prompt_tokens = sequence->statistics().cached_prompt_tokens,
                           .reserved_kv_bytes = sequence->max_pages() * parts_->model->shape().kv_bytes_per_page(),
                           .queue_duration = sequence->statistics().first_step - sequence->statistics().arrival});
}

// One request of the batch makes room, the one that would be preempted first; the others run again without it. What ran
// behind the step that failed read what it did not write.
void EngineLoop::AbandonSteps(const StepInFlight& failed) {
  absl::Status fault;
  for (; !in_flight_.empty(); in_flight_.pop_front()) {
    const absl::Status status = parts_->model->EndStep().status();
    if (!status.ok() && !absl::IsResourceExhausted(status)) fault = status;
  }
  Sequence* last = nullptr;
  for (const BatchRun& run : failed.runs) {
    Sequence* const sequence = scheduler_.FindRunning(run.id);
    if (Overran(failed, sequence)) continue;
    if (last == nullptr || Scheduler::RanksBefore(*last, *sequence)) last = sequence;
  }
  for (const auto& sequence : scheduler_.running()) sequence->AbandonSteps();
  if (!fault.ok()) return Fail(fault);
  if (last == nullptr) return;
  last->SetOutcome({.reason = FinishReason::kError,
                    .status = absl::ResourceExhaustedError("there was no memory to run the request's next step")});
}

void EngineLoop::Fail(const absl::Status& fault) {
  Log().error("the device has failed: {}", std::string(fault.message()));
  inbox_->PublishFault(fault);
  for (; !in_flight_.empty(); in_flight_.pop_front()) parts_->model->EndStep().IgnoreError();
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
  int64_t preempted = 0;
  for (const auto& sequence : scheduler_.waiting()) preempted += sequence->started() ? 1 : 0;
  const EngineGauges gauges = {.requests_waiting = inbox_->stats().requests_queued + preempted,
                               .requests_running = scheduler_.num_running(),
                               .kv_pages_free = pool_.num_free(),
                               .kv_pages_used = pool_.num_used(),
                               .kv_pages_cached = pool_.num_cached(),
                               .policies = GaugesByPolicy()};
  inbox_->Publish(gauges, num_steps_, Now());
  parts_->metrics->OnGauges(gauges);
}

std::vector<PolicyGauges> EngineLoop::GaugesByPolicy() const {
  std::vector<PolicyGauges> gauges;
  const auto of = [&gauges](const Sequence& sequence) -> PolicyGauges& {
    const std::string_view policy = sequence.request().policy->name();
    const auto found =
        std::find_if(gauges.begin(), gauges.end(), [policy](const auto& g) { return g.policy == policy; });
    return found != gauges.end() ? *found : gauges.emplace_back(PolicyGauges{.policy = policy});
  };
  for (const auto& sequence : scheduler_.waiting()) ++of(*sequence).requests_waiting;
  for (const auto& sequence : scheduler_.running()) {
    PolicyGauges& gauge = of(*sequence);
    ++gauge.requests_running;
    const int64_t pages = sequence->block_table().num_resident_pages();
    gauge.resident_bytes += pages * parts_->model->shape().kv_bytes_per_page();
    if ((sequence->request().policy->needs() & kSelectorFeatures) != PlanFeatures::kNone) {
      gauge.side_data_bytes += pages * parts_->kv_cache->side_data_bytes_per_page();
    }
    gauge.logical_tokens += sequence->computed();
    gauge.resident_tokens += sequence->computed() - sequence->block_table().dropped_tokens();
  }
  return gauges;
}

StepEvent EngineLoop::EventOf(const BuiltBatch& built) {
  StepEvent event = {.num_sequences = static_cast<int64_t>(built.runs.size())};
  std::set<std::string_view> policies;
  for (const BatchRun& run : built.runs) {
    (run.prefill ? event.prefill_tokens : event.decode_rows) += run.num_tokens;
    policies.insert(scheduler_.sequence(run.id).request().policy->name());
  }
  event.num_policies = static_cast<int64_t>(policies.size());
  return event;
}

// A step's duration is the time that it kept the ones behind it waiting.
void EngineLoop::FinishStep(StepInFlight step) {
  ++num_steps_;
  const SteadyTime now = Now();
  step.event.duration = now - std::max(step.begun, std::exchange(last_step_end_, now));
  scheduler_.ObserveStep(step.event.duration, {.decode_rows = step.event.decode_rows,
                                               .prefill_tokens = step.event.prefill_tokens,
                                               .prefill_reads = step.prefill_reads});
  parts_->metrics->OnStep(step.event);
}

}  // namespace farspan
