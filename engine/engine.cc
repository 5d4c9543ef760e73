// SPDX-License-Identifier: Apache-2.0
#include "engine/engine.h"

#include <algorithm>
#include <span>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/engine_inbox.h"
#include "engine/engine_loop.h"

namespace farspan {
namespace {

absl::Status CheckConfig(const EngineConfig& config, const EngineParts& parts) {
  if (config.max_num_seqs < 1 || config.max_num_seqs > config.max_num_batched_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("max_num_seqs: must be between 1 and max_num_batched_tokens (",
                                                   config.max_num_batched_tokens, "), got ", config.max_num_seqs));
  }
  if (config.max_num_batched_tokens > parts.model->max_batch_rows()) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_num_batched_tokens: must be at most the ", parts.model->max_batch_rows(),
                     " rows that the model was loaded for, got ", config.max_num_batched_tokens));
  }
  if (config.max_steps_in_flight < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_steps_in_flight: must be at least 1, got ", config.max_steps_in_flight));
  }
  for (const auto& [name, limit] :
       {std::pair<const char*, int64_t>("max_num_queued_requests", config.max_num_queued_requests),
        {"max_num_queued_requests_per_tenant", config.max_num_queued_requests_per_tenant},
        {"max_num_queued_tokens", config.max_num_queued_tokens}}) {
    if (limit < 1) return absl::InvalidArgumentError(absl::StrCat(name, ": must be at least 1, got ", limit));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(const EngineConfig& config, EngineParts parts) {
  FARSPAN_CHECK(parts.backend && parts.model && parts.kv_cache && parts.metrics && parts.clock);
  FARSPAN_RETURN_IF_ERROR(CheckConfig(config, parts));
  EngineConfig runnable = config;
  runnable.max_steps_in_flight = std::min(config.max_steps_in_flight, parts.model->max_steps_in_flight());
  return std::unique_ptr<Engine>(new Engine(runnable, std::move(parts)));
}

Engine::Engine(const EngineConfig& config, EngineParts parts)
    : config_(config),
      parts_(std::move(parts)),
      inbox_(std::make_unique<EngineInbox>(config, parts_.kv_cache->num_pages())),
      loop_(std::make_unique<EngineLoop>(config, &parts_, inbox_.get())) {}

Engine::~Engine() {
  inbox_->RequestStop();
  if (thread_.joinable()) {
    thread_.join();
  } else {
    loop_->Run();
  }
  // Whatever a racing Submit left behind has been ended by Run; the loop holds references into the parts.
  loop_.reset();
}

void Engine::Start() {
  FARSPAN_CHECK(!thread_.joinable());
  thread_ = std::thread([this]() noexcept { loop_->Run(); });
}

absl::StatusOr<std::shared_ptr<RequestHandle>> Engine::Submit(Request request, std::shared_ptr<OutputSink> sink) {
  FARSPAN_CHECK(request.policy != nullptr && !request.prompt.empty() && request.stop.max_tokens >= 1);
  const AttentionPolicy& policy = *request.policy;
  if (!Covers(parts_.backend->caps(), policy.needs())) {
    return absl::FailedPreconditionError(absl::StrCat("attention: policy ", std::string(policy.name()),
                                                      " needs features that backend ",
                                                      std::string(parts_.backend->name()), " lacks"));
  }
  if (!Covers(parts_.kv_cache->side_data(), policy.needs() & kSelectorFeatures)) {
    return absl::FailedPreconditionError(absl::StrCat("attention: policy ", std::string(policy.name()),
                                                      " needs side data that this server does not keep"));
  }
  const int64_t total_tokens = static_cast<int64_t>(request.prompt.size()) + request.stop.max_tokens;
  // A sequence may have rows in every step in flight before it lets go of what the first of them read.
  const int64_t chunk_tokens = config_.max_num_batched_tokens * config_.max_steps_in_flight;
  const int64_t pages = policy.MaxPages(total_tokens, chunk_tokens);
  if (pages > parts_.kv_cache->num_pages()) {
    return absl::InvalidArgumentError(absl::StrCat("prompt and max_tokens need ", pages, " KV pages under ",
                                                   policy.Describe(), "; this server has ",
                                                   parts_.kv_cache->num_pages()));
  }
  // A request that cannot wait is refused before its prompt is hashed.
  FARSPAN_RETURN_IF_ERROR(inbox_->Check(request));
  auto handle = std::make_shared<RequestHandle>(inbox_->doorbell());
  Submission submission = {.handle = handle, .sink = std::move(sink), .max_pages = pages};
  if (config_.prefix_caching && request.use_prefix_cache) {
    submission.prompt_keys = MakePromptKeys(request, model_info().weights_id, shape());
  }
  submission.request = std::move(request);
  FARSPAN_RETURN_IF_ERROR(inbox_->Offer(std::move(submission)));
  return handle;
}

void Engine::BeginDrain() { inbox_->Close(); }
void Engine::CancelAll() { inbox_->RequestCancelAll(); }
bool Engine::WaitIdle(SteadyTime deadline) { return inbox_->WaitIdle(deadline); }
EngineStats Engine::stats() const { return inbox_->stats(); }
int64_t Engine::requests_queued_of(const std::string& tenant) const { return inbox_->requests_queued_of(tenant); }
const ModelShape& Engine::shape() const { return parts_.model->shape(); }
const ModelInfo& Engine::model_info() const { return parts_.model->info(); }
const Backend& Engine::backend() const { return *parts_.backend; }
int64_t Engine::kv_cache_bytes() const { return parts_.kv_cache->size_bytes(); }
const EngineConfig& Engine::config() const { return config_; }
bool Engine::TEST_Step() { return loop_->Step(); }
SteadyTime Engine::TEST_SleepUntil() { return loop_->SleepUntil(); }
EngineAccounting Engine::TEST_Accounting() const { return loop_->Account(); }

}  // namespace farspan
