// SPDX-License-Identifier: Apache-2.0
#include "server/comparison_call.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "server/comparison_table.h"
#include "server/error.h"
#include "server/generate_call.h"

namespace farspan {
namespace {

constexpr absl::string_view kMethod = "ComparePolicies";

}  // namespace

// Tells the call which of its runs spoke.
class ComparisonCall::RunListener final : public GenerationListener {
 public:
  RunListener(std::shared_ptr<ComparisonCall> call, Run run) : call_(std::move(call)), run_(run) {}
  void OnResponse(v1::GenerateResponse response) override { call_->OnRunResponse(run_, std::move(response)); }
  void OnEnd(const GenerationOutcome& outcome) override { call_->OnRunEnd(run_, outcome); }

 private:
  const std::shared_ptr<ComparisonCall> call_;
  const Run run_;
};

grpc::ServerWriteReactor<v1::ComparePoliciesResponse>* ComparisonCall::Start(grpc::CallbackServerContext* context,
                                                                             const v1::ComparePoliciesRequest* request,
                                                                             const ServingContext* serving) {
  const std::shared_ptr<ComparisonCall> call(new ComparisonCall(context, request, serving));
  call->self_ = call;
  serving->calls->AddStream(call);
  absl::Status status = call->Admit();
  if (status.ok() && !serving->text_pool->TryRun([call] { call->Parse(); })) status = TextPoolFull();
  if (!status.ok()) {
    MutexLock lock(&call->mutex_);
    call->EndCall(status);
  }
  return call.get();
}

ComparisonCall::ComparisonCall(grpc::CallbackServerContext* context, const v1::ComparePoliciesRequest* request,
                               const ServingContext* serving)
    : StreamReactor(context, kMethod, serving->metrics),
      request_(request),
      serving_(serving),
      deadline_(DeadlineOf(*context, *serving->config)),
      has_deadline_(HasDeadline(*context)),
      log_(kMethod, OriginOf(*context, *serving->config), serving->metrics) {}

absl::Status ComparisonCall::Admit() {
  constexpr int64_t kMostRuns = 9;  // more are refused when the request is read
  MutexLock lock(&mutex_);
  return AdmitCall(*context(), log_,
                   {.bytes = static_cast<int64_t>(request_->ByteSizeLong()),
                    .slots = request_->concurrent() ? std::min<int64_t>(1 + request_->policies_size(), kMostRuns) : 1},
                   *serving_, &slot_, &ticket_);
}

void ComparisonCall::Parse() {
  CallFacts facts;
  {
    MutexLock lock(&mutex_);
    facts = FactsOf(log_, deadline_, *serving_->config);
  }
  absl::StatusOr<std::vector<ParsedGeneration>> generations = ParseComparison(*request_, facts, *serving_->model);
  MutexLock lock(&mutex_);
  if (!generations.ok()) {
    EndCall(generations.status());
    return;
  }
  for (ParsedGeneration& generation : *generations) {
    // Every run reports its tokens' log-probabilities, asked for or not: all pay the same, so timings compare.
    if (!generation.request.logprobs) generation.request.logprobs = 0;
    generation.presentation.reports_logprobs = true;
    Row row;
    *row.result.mutable_attention() = generation.presentation.started.attention();
    row.generation = std::move(generation);
    rows_.push_back(std::move(row));
  }
  for (size_t i = rows_.size(); i > 0; --i) waiting_.push_back({.row = i - 1});
  ticket_.LeaveQueue();
  Advance();
}

void ComparisonCall::Advance() {
  while (failure_.ok() && !waiting_.empty() && (num_running_ == 0 || request_->concurrent())) {
    const Run run = waiting_.back();
    waiting_.pop_back();
    failure_ = StartRun(run);
  }
  if (!failure_.ok()) {
    for (const std::shared_ptr<DeliverySink>& sink : live_) sink->Cancel();
  }
  if (num_running_ > 0) return;
  if (!failure_.ok()) return EndCall(failure_);
  if (!std::exchange(scored_, true)) {
    QueueScoringRuns();
    return Advance();
  }
  v1::ComparePoliciesResponse table = Table();
  CountRows(table.finished());
  Push(std::move(table));
  EndCall(absl::OkStatus());
}

absl::Status ComparisonCall::StartRun(const Run& run) {
  const Row& row = rows_[run.row];
  ParsedGeneration generation = row.generation;
  const bool scoring = run.phase == v1::PolicyRunEvent::PHASE_SCORE;
  const SteadyTime now = std::chrono::steady_clock::now();
  generation.request.id = absl::StrCat(log_.request_id(), ".", run.row, scoring ? "s" : "g");
  generation.presentation.started.set_request_id(generation.request.id);
  // Each run is timed from its own start. The call's deadline holds for all; the limit for calls without one, for each.
  if (generation.request.queue_deadline != kNoDeadline) {
    generation.request.queue_deadline += now - generation.request.arrival;
  }
  generation.request.arrival = now;
  if (!has_deadline_ && serving_->config->max_request_seconds > 0) {
    generation.request.deadline = now + std::chrono::seconds(serving_->config->max_request_seconds);
  }
  if (scoring) {
    generation.request.forced_tokens = rows_.front().tokens;
    generation.request.stop = {.max_tokens = static_cast<int64_t>(rows_.front().tokens.size())};
    generation.request.logprobs = 0;
    generation.request.prompt_logprobs.reset();
    generation.presentation.stops = {};
    generation.presentation.reports_prompt_logprobs = false;
  }
  FARSPAN_ASSIGN_OR_RETURN(
      std::shared_ptr<DeliverySink> sink,
      StartGeneration(std::move(generation), std::make_shared<RunListener>(shared_from_this(), run), *serving_));
  accepted_ = true;
  ++num_running_;
  if (context()->IsCancelled()) sink->Cancel();
  live_.push_back(std::move(sink));
  return absl::OkStatus();
}

void ComparisonCall::QueueScoringRuns() {
  live_.clear();
  for (size_t i = rows_.size(); i > 0; --i) {
    Row& row = rows_[i - 1];
    if (row.tokens == rows_.front().tokens) {
      // The policy's own run was a scoring run already: rows do not depend on how their tokens were chosen.
      row.score_logprobs = row.own_logprobs;
    } else {
      row.score_logprobs.emplace();
      waiting_.push_back({.row = i - 1, .phase = v1::PolicyRunEvent::PHASE_SCORE});
    }
  }
}

void ComparisonCall::OnRunResponse(const Run& run, v1::GenerateResponse response) {
  MutexLock lock(&mutex_);
  Collect(run, response);
  if (response.has_delta() && !request_->spec().output().has_logprobs()) response.mutable_delta()->clear_logprobs();
  v1::ComparePoliciesResponse event;
  event.mutable_run()->set_row_index(static_cast<int32_t>(run.row));
  event.mutable_run()->set_phase(run.phase);
  *event.mutable_run()->mutable_event() = std::move(response);
  Push(std::move(event));
}

void ComparisonCall::Collect(const Run& run, const v1::GenerateResponse& response) {
  Row& row = rows_[run.row];
  const bool scoring = run.phase == v1::PolicyRunEvent::PHASE_SCORE;
  for (const v1::TokenLogprobs& logprobs : response.delta().logprobs()) {
    (scoring ? *row.score_logprobs : row.own_logprobs).push_back(logprobs.chosen().logprob());
  }
  if (scoring) return;
  row.tokens.insert(row.tokens.end(), response.delta().token_ids().begin(), response.delta().token_ids().end());
  row.result.mutable_text()->append(response.delta().text());
  if (response.has_finished()) *row.result.mutable_finished() = response.finished();
}

void ComparisonCall::OnRunEnd(const Run& run, const GenerationOutcome& outcome) {
  serving_->gate->OnRequestEnded(1);
  MutexLock lock(&mutex_);
  --num_running_;
  if (failure_.ok() && !outcome.status.ok()) {
    failure_ = outcome.status;
    log_.SetGeneration(Logged(rows_[run.row].generation, request_->spec(), *serving_->model));
    log_.SetOutcome(outcome);
  }
  Advance();
}

v1::ComparePoliciesResponse ComparisonCall::Table() const {
  v1::ComparePoliciesResponse response;
  const std::vector<TokenId>& reference = rows_.front().tokens;
  for (const Row& row : rows_) {
    v1::ComparisonRow& result = *response.mutable_finished()->add_rows();
    result = row.result;
    result.mutable_token_ids()->Assign(row.tokens.begin(), row.tokens.end());
    const std::optional<int64_t> divergence = FirstDivergence(row.tokens, reference);
    if (divergence) result.set_first_divergence_index(*divergence);
    result.set_token_agreement_ratio(TokenAgreement(row.tokens, reference));
    result.set_reference_mean_logprob(Mean(*row.score_logprobs));
  }
  return response;
}

void ComparisonCall::CountRows(const v1::ComparisonFinished& table) const {
  const auto policy = [](const Row& row) {
    const std::string_view name = row.generation.request.policy->name();
    return absl::string_view(name.data(), name.size());
  };
  const absl::string_view reference = policy(rows_.front());
  for (size_t i = 1; i < rows_.size(); ++i) {
    const v1::ComparisonRow& row = table.rows(static_cast<int>(i));
    ComparedEvent event = {
        .policy = policy(rows_[i]), .reference = reference, .token_agreement = row.token_agreement_ratio()};
    if (row.has_first_divergence_index()) event.first_divergence = row.first_divergence_index();
    serving_->metrics->OnCompared(event);
  }
}

void ComparisonCall::EndCall(const absl::Status& status) {
  if (std::exchange(ended_, true)) return;
  log_.End(LoggedStatus(status), accepted_);
  ticket_.Release();
  slot_.Release();
  End(WithRetryHint(status, serving_->gate));
}

bool ComparisonCall::TryMerge(v1::ComparePoliciesResponse* back, v1::ComparePoliciesResponse& next) {
  if (!back->has_run() || !next.has_run() || back->run().row_index() != next.run().row_index() ||
      back->run().phase() != next.run().phase()) {
    return false;
  }
  return MergeResponses(back->mutable_run()->mutable_event(), *next.mutable_run()->mutable_event());
}

void ComparisonCall::OnCancel() {
  if (IsEndOfDeadline(deadline_, std::chrono::steady_clock::now())) return;
  MutexLock lock(&mutex_);
  for (const std::shared_ptr<DeliverySink>& sink : live_) sink->Cancel();
  waiting_.clear();
  if (failure_.ok()) {
    failure_ = MakeError(absl::StatusCode::kCancelled, reason::kCancelled, "the call was cancelled");
  }
}

}  // namespace farspan
