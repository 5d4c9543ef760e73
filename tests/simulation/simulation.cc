// SPDX-License-Identifier: Apache-2.0
#include "tests/simulation/simulation.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/backend/cpu_backend.h"
#include "engine/base/check.h"
#include "engine/sched/scheduler.h"
#include "tests/simulation/invariants.h"
#include "tests/support/late_model.h"

namespace farspan {
namespace {

// A cancel or a deadline ends its request within this many steps.
constexpr int64_t kStepsToEnd = 2;
// While nothing comes, steps that a row of work may take at most: rows computed again after preemptions included.
constexpr int64_t kStepsPerRow = 8;

const char* ReasonName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "ended: stop";
    case FinishReason::kLength:
      return "ended: length";
    case FinishReason::kCancelled:
      return "ended: cancelled";
    case FinishReason::kDeadline:
      return "ended: deadline";
    case FinishReason::kQueueTimeout:
      return "ended: queue timeout";
    case FinishReason::kError:
      return "ended: error";
  }
  return "";
}

}  // namespace

Simulation::Simulation(Choices* choices, SimulationCounts* counts)
    : choices_(choices), counts_(counts), scenario_(choices) {
  const EngineConfig& config = scenario_.engine();
  const ModelShape shape = HashModel::Shape(scenario_.page_tokens(), scenario_.max_context_tokens());
  EngineParts parts;
  auto backend = CpuBackend::Create({.isa = CpuIsa::kPortable});
  FARSPAN_CHECK(backend.ok());
  parts.backend = *std::move(backend);
  auto model = std::make_unique<TimedHashModel>(shape, config.max_num_batched_tokens, &clock_);
  model_ = &model->hash();
  if (scenario_.fault_at_step()) model_->FailForwardFrom(*scenario_.fault_at_step());
  if (scenario_.nan_position()) model_->PoisonLogitsAt(*scenario_.nan_position());
  if (scenario_.max_steps_in_flight() == 1) {
    parts.model = std::move(model);
  } else {
    parts.model = std::make_unique<LateModel>(std::move(model));
  }
  auto cache = KvCache::Create(shape, scenario_.num_pages(), parts.backend.get(), parts.backend->caps());
  FARSPAN_CHECK(cache.ok());
  parts.kv_cache = *std::move(cache);
  parts.metrics = &recorder_;
  parts.clock = &clock_;
  auto engine = Engine::Create(config, std::move(parts));
  FARSPAN_CHECK(engine.ok());
  engine_ = *std::move(engine);
}

Simulation::~Simulation() = default;

const Verdict& Simulation::Run(int64_t num_steps) {
  // A failed device accepts nothing more.
  while (verdict_.ok() && num_steps_ < num_steps && !choices_->exhausted() && engine_->stats().fault.ok()) {
    ActOutside();
    if (asleep_) {
      Sleep();
    } else {
      asleep_ = !Step();
    }
  }
  RunDown();
  return verdict_;
}

void Simulation::ActOutside() {
  if (scenario_.Arrives()) Submit();
  if (!live_.empty() && scenario_.Cancels()) CancelOne();
  if (!live_.empty() && scenario_.RunsOutOfMemory()) {
    const int64_t num_steps = choices_->Between(1, 2);
    model_->ExhaustMemoryFor(num_steps);
    num_memory_faults_ += num_steps;
  }
}

void Simulation::Submit() {
  Request request = scenario_.DrawRequest(num_submitted_++, clock_.Now());
  const auto simulated = std::make_shared<SimulatedRequest>(request, scenario_.nan_position(), &clock_, &verdict_);
  simulated->deeds().stop_at_tokens = scenario_.DrawStopString(request);
  auto handle = engine_->Submit(request, simulated);
  if (!handle.ok()) return CheckRefusal(request, handle.status());
  ++(*counts_)["accepted"];
  simulated->handle() = *std::move(handle);
  by_id_[request.id] = simulated.get();
  live_.push_back(simulated);
}

void Simulation::CheckRefusal(const Request& request, const absl::Status& status) {
  ++(*counts_)[absl::StrCat("refused: ", absl::StatusCodeToString(status.code()))];
  const int64_t pages =
      request.policy->MaxPages(std::ssize(request.prompt) + request.stop.max_tokens,
                               scenario_.max_steps_in_flight() * scenario_.engine().max_num_batched_tokens);
  int64_t num_queued = 0;
  int64_t num_queued_tokens = std::ssize(request.prompt);
  for (const auto& other : live_) {
    if (other->finished()) continue;
    num_queued += other->request().num_samples;
    num_queued_tokens += std::ssize(other->request().prompt);
  }
  const EngineConfig& config = scenario_.engine();
  const bool queue_may_be_full = num_queued + request.num_samples > config.max_num_queued_requests ||
                                 num_queued_tokens > config.max_num_queued_tokens ||
                                 num_queued + request.num_samples > config.max_num_queued_requests_per_tenant;
  const bool justified = (absl::IsInvalidArgument(status) && pages > scenario_.num_pages()) ||
                         (absl::IsResourceExhausted(status) && queue_may_be_full) ||
                         (absl::IsUnavailable(status) && !engine_->stats().fault.ok());
  if (!justified) verdict_.Fail("refusal", absl::StrCat("request ", request.id, ": ", std::string(status.message())));
}

void Simulation::CancelOne() {
  SimulatedRequest& request = *live_[static_cast<size_t>(choices_->Below(std::ssize(live_)))];
  if (choices_->OneIn(3)) {
    const auto sample = choices_->Below(request.request().num_samples);
    request.deeds().stopped_samples[static_cast<size_t>(sample)] = true;
    request.handle()->StopSample(static_cast<int>(sample));
    return;
  }
  if (!request.deeds().cancelled_at_step) request.deeds().cancelled_at_step = num_steps_;
  request.handle()->Cancel();
}

// A step that had nothing to do left nobody live: whoever lives now came later and must have rung.
void Simulation::Sleep() {
  if (engine_->TEST_SleepUntil() <= clock_.Now()) {
    asleep_ = false;
  } else if (!live_.empty()) {
    verdict_.Fail("wake_up", absl::StrCat("asleep while ", live_.size(), " requests wait"));
  } else {
    clock_.Advance(std::chrono::milliseconds(choices_->Between(1, 20)));
  }
}

bool Simulation::Step() {
  recorder_.BeginStep();
  const SteadyTime start = clock_.Now();
  for (const auto& request : live_) {
    request->deeds().met_lack_of_memory = num_memory_faults_ > 0;
    request->deeds().may_meet_fault = scenario_.fault_at_step().has_value();
  }
  const bool had_fault = !engine_->stats().fault.ok();
  const bool did_something = engine_->TEST_Step();
  ++num_steps_;
  if (!had_fault && !engine_->stats().fault.ok()) {
    for (const auto& request : live_) request->deeds().cut_at_step = num_steps_ - 1;
  }
  CheckStep(did_something);
  Collect(start);
  CheckHoldings(did_something);
  return did_something;
}

void Simulation::CheckStep(bool did_something) {
  const StepEvent& step = recorder_.step();
  const EngineConfig& config = scenario_.engine();
  const int64_t rows = step.decode_rows + step.prefill_tokens;
  if (rows > config.max_num_batched_tokens) verdict_.Fail("budget", absl::StrCat(rows, " rows in one step"));
  if (step.num_sequences > config.max_num_seqs) {
    verdict_.Fail("budget", absl::StrCat(step.num_sequences, " requests in one step"));
  }
  (*counts_)["overrun rows"] += step.overrun_rows;
  if (model_->num_bad_reads() > 0) verdict_.Fail("bad_read", "a row read a page that does not hold the token it names");
  if (!did_something && rows > 0) verdict_.Fail("progress", "a step with rows was reported as idle");
}

void Simulation::Collect(SteadyTime step_start) {
  bool some_ended = false;
  for (const auto& request : live_) {
    some_ended = some_ended || request->finished();
    if (request->started() && !request->seen_started) {
      request->seen_started = true;
      CheckOrder(*request);
    }
    CheckPromptness(*request, step_start);
  }
  if (!some_ended) return;
  std::erase_if(live_, [this](const auto& request) {
    if (!request->finished()) return false;
    ++(*counts_)[ReasonName(request->finished()->reason)];
    if (request->request().num_samples > 1 && request->finished()->status.ok()) ++(*counts_)["ended: several samples"];
    if (absl::IsResourceExhausted(request->finished()->status) && request->finished()->reason == FinishReason::kError &&
        ++num_memory_failures_ > num_memory_faults_) {
      verdict_.Fail("outcome", "a step without memory cost more than one request");
    }
    by_id_.erase(request->request().id);
    return true;
  });
}

// First come, first served among requests of one tenant and priority, but for those that do not fit yet.
void Simulation::CheckOrder(const SimulatedRequest& started) {
  for (const auto& other : live_) {
    if (other.get() == &started) return;
    const bool rivals =
        other->request().tenant == started.request().tenant && other->request().priority == started.request().priority;
    if (!rivals || other->started() || other->finished()) continue;
    ++(*counts_)["overtaken"];
    if (++other->times_overtaken <= Scheduler::kMaxOvertaken) continue;
    verdict_.Fail("order", absl::StrCat("request ", other->request().id, " was overtaken ", other->times_overtaken,
                                        " times, the last time by ", started.request().id));
  }
}

void Simulation::CheckPromptness(const SimulatedRequest& request, SteadyTime step_start) {
  if (request.finished()) return;
  const auto late = [this, &request](const char* what) {
    verdict_.Fail("promptness", absl::StrCat("request ", request.request().id, " lives on after ", what));
  };
  if (request.deeds().cancelled_at_step && num_steps_ - *request.deeds().cancelled_at_step >= kStepsToEnd) {
    late("its cancel");
  }
  if (request.deeds().cut_at_step && num_steps_ - *request.deeds().cut_at_step >= kStepsToEnd) late("the end of all");
  if (request.request().deadline <= step_start) late("its deadline");
  if (request.request().queue_deadline <= step_start && !request.started()) late("its queue deadline");
}

void Simulation::CheckHoldings(bool did_something) {
  if (!did_something && !live_.empty()) {
    verdict_.Fail("progress", absl::StrCat("nothing to do while ", live_.size(), " requests live"));
  }
  const EngineAccounting accounting = engine_->TEST_Accounting();
  CheckPages(accounting, &verdict_);
  const TokenAt token_at = [this](const SequenceAccount& sequence, int64_t position) {
    return by_id_.at(sequence.request->id)->token(sequence.sample, position);
  };
  if (verdict_.ok()) CheckSharing(accounting, scenario_.page_tokens(), token_at, &verdict_);
  // A step that ran rows has published what it left behind.
  if (verdict_.ok() && (recorder_.step().num_sequences > 0 || !did_something)) {
    CheckGauges(accounting, recorder_.gauges(), &verdict_);
    CheckPolicyGauges(accounting, recorder_.gauges(), engine_->shape().kv_bytes_per_page(), &verdict_);
  }
}

// Nothing comes any more: what lives ends, and all pages return.
void Simulation::RunDown() {
  const int64_t way = choices_->Below(8);
  if (way == 0) engine_->CancelAll();
  if (way <= 1) {
    for (const auto& request : live_) request->deeds().cut_at_step = num_steps_;
  }
  if (way != 1) RunUntilIdle();
  if (!verdict_.ok()) return;
  if (way != 1 && engine_->stats().kv_pages_used != 0) verdict_.Fail("page_accounting", "an idle engine uses pages");
  engine_.reset();
  for (const auto& request : live_) {
    if (!request->finished()) verdict_.Fail("events", absl::StrCat("request ", request->request().id, " never ended"));
  }
  (*counts_)["steps"] += num_steps_;
  (*counts_)["ended: lack of memory"] += num_memory_failures_;
  (*counts_)["preemptions"] += recorder_.num_preemptions();
  (*counts_)["prefix hits"] += recorder_.num_prefix_hits();
}

void Simulation::RunUntilIdle() {
  int64_t rows = 100;
  for (const auto& request : live_) rows += request->num_rows();
  const int64_t last_step = num_steps_ + rows * kStepsPerRow;
  while (verdict_.ok() && !live_.empty()) {
    if (num_steps_ > last_step) return verdict_.Fail("progress", absl::StrCat(live_.size(), " requests never end"));
    if (asleep_) {
      Sleep();
    } else {
      asleep_ = !Step();
    }
  }
  if (verdict_.ok()) Step();
}

}  // namespace farspan
