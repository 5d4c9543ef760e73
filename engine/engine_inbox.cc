// SPDX-License-Identifier: Apache-2.0
#include "engine/engine_inbox.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"

namespace farspan {

namespace {

absl::Status QueueLimitError(const char* limit, const std::string& message) {
  absl::Status status = absl::ResourceExhaustedError(message);
  status.SetPayload(kQueueLimitPayload, absl::Cord(limit));
  return status;
}

}  // namespace

EngineInbox::EngineInbox(const EngineConfig& config, int64_t kv_pages_total)
    : max_queued_requests_(config.max_num_queued_requests),
      max_queued_tokens_(config.max_num_queued_tokens),
      max_queued_requests_per_tenant_(config.max_num_queued_requests_per_tenant) {
  stats_.kv_pages_total = kv_pages_total;
}

absl::Status EngineInbox::Offer(Submission submission) {
  {
    MutexLock lock(&mutex_);
    const Request& request = submission.request;
    if (absl::Status status = CheckLocked(request); !status.ok()) return status;
    // Until now there was nothing to do, however long ago the last step ended.
    if (num_live_ == 0) stats_.last_progress = std::max(stats_.last_progress, request.arrival);
    stats_.requests_queued += request.num_samples;
    stats_.tokens_queued += std::ssize(request.prompt);
    queued_by_tenant_[request.tenant] += request.num_samples;
    ++num_live_;
    submissions_.push_back(std::move(submission));
  }
  doorbell_->Ring();
  return absl::OkStatus();
}

absl::Status EngineInbox::Check(const Request& request) const {
  MutexLock lock(&mutex_);
  return CheckLocked(request);
}

// What waits alone may exceed any limit: it never could wait otherwise.
absl::Status EngineInbox::CheckLocked(const Request& request) const {
  if (!stats_.fault.ok()) return absl::UnavailableError("the device has failed; try another replica");
  if (closed_) return absl::UnavailableError("the server is draining; try another replica");
  const int64_t samples = request.num_samples, tokens = std::ssize(request.prompt);
  if (stats_.requests_queued > 0 && stats_.requests_queued + samples > max_queued_requests_) {
    return QueueLimitError(kQueueLimitRequests, absl::StrCat("the queue is full: ", stats_.requests_queued,
                                                             " requests wait, at most ", max_queued_requests_, " may"));
  }
  const auto tenant = queued_by_tenant_.find(request.tenant);
  const int64_t tenant_queued = tenant == queued_by_tenant_.end() ? 0 : tenant->second;
  if (tenant_queued > 0 && tenant_queued + samples > max_queued_requests_per_tenant_) {
    return QueueLimitError(kQueueLimitTenant,
                           absl::StrCat("the tenant's share of the queue is full: ", tenant_queued,
                                        " of its requests wait, at most ", max_queued_requests_per_tenant_, " may"));
  }
  if (stats_.tokens_queued > 0 && stats_.tokens_queued + tokens > max_queued_tokens_) {
    return QueueLimitError(kQueueLimitTokens,
                           absl::StrCat("the queue is full: ", stats_.tokens_queued, " prompt tokens wait, at most ",
                                        max_queued_tokens_, " may"));
  }
  return absl::OkStatus();
}

void EngineInbox::Close() {
  MutexLock lock(&mutex_);
  closed_ = true;
}

std::vector<Submission> EngineInbox::TakeAll() {
  MutexLock lock(&mutex_);
  return std::exchange(submissions_, {});
}

void EngineInbox::OnLeftQueue(const std::string& tenant, int64_t prompt_tokens) {
  MutexLock lock(&mutex_);
  const auto queued = queued_by_tenant_.find(tenant);
  FARSPAN_CHECK(queued != queued_by_tenant_.end());
  if (--queued->second == 0) queued_by_tenant_.erase(queued);
  --stats_.requests_queued;
  stats_.tokens_queued -= prompt_tokens;
  FARSPAN_CHECK(stats_.requests_queued >= 0 && stats_.tokens_queued >= 0);
}

void EngineInbox::OnEnded() {
  MutexLock lock(&mutex_);
  FARSPAN_CHECK(num_live_ > 0);
  if (--num_live_ == 0) idle_changed_.NotifyAll();
}

void EngineInbox::Publish(const EngineGauges& gauges, int64_t steps, SteadyTime now) {
  MutexLock lock(&mutex_);
  stats_.requests_running = gauges.requests_running;
  stats_.kv_pages_used = gauges.kv_pages_used;
  stats_.kv_pages_cached = gauges.kv_pages_cached;
  stats_.steps = steps;
  stats_.last_progress = now;
}

void EngineInbox::PublishFault(absl::Status fault) {
  MutexLock lock(&mutex_);
  stats_.fault = std::move(fault);
}

void EngineInbox::RequestStop() {
  {
    MutexLock lock(&mutex_);
    closed_ = true;
    stopping_ = true;
  }
  doorbell_->Ring();
}

bool EngineInbox::stopping() const {
  MutexLock lock(&mutex_);
  return stopping_;
}

void EngineInbox::RequestCancelAll() {
  {
    MutexLock lock(&mutex_);
    cancel_all_ = true;
  }
  doorbell_->Ring();
}

bool EngineInbox::TakeCancelAll() {
  MutexLock lock(&mutex_);
  return std::exchange(cancel_all_, false);
}

EngineStats EngineInbox::stats() const {
  MutexLock lock(&mutex_);
  return stats_;
}

int64_t EngineInbox::requests_queued_of(const std::string& tenant) const {
  MutexLock lock(&mutex_);
  const auto queued = queued_by_tenant_.find(tenant);
  return queued == queued_by_tenant_.end() ? 0 : queued->second;
}

bool EngineInbox::WaitIdle(SteadyTime deadline) {
  MutexLock lock(&mutex_);
  while (num_live_ != 0) {
    if (deadline == kNoDeadline) {
      idle_changed_.Wait(&mutex_);
    } else if (!idle_changed_.WaitUntil(&mutex_, deadline)) {
      return num_live_ == 0;
    }
  }
  return true;
}

}  // namespace farspan
