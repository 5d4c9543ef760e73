// SPDX-License-Identifier: Apache-2.0
#include "server/admission_gate.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/error.h"

namespace farspan {
namespace {

constexpr int64_t kBytesPerToken = 4;
constexpr double kJitter = 0.2;
// Jittered, between 50 ms and 30 s.
constexpr double kMinRetrySeconds = 0.05 / (1 - kJitter);
constexpr double kMaxRetrySeconds = 30.0 / (1 + kJitter);
constexpr double kNewGapWeight = 0.2;

SteadyDuration Seconds(double seconds) {
  return std::chrono::duration_cast<SteadyDuration>(std::chrono::duration<double>(seconds));
}

int64_t TokensOf(const GateRequest& request) { return std::max<int64_t>(1, request.bytes / kBytesPerToken); }

bool Over(int64_t waiting, int64_t more, int64_t limit) { return waiting > 0 && waiting + more > limit; }

absl::Status Full(absl::string_view reason, absl::string_view whose, int64_t limit, absl::string_view what) {
  return MakeError(absl::StatusCode::kResourceExhausted, reason,
                   absl::StrCat(whose, " is full: at most ", limit, " ", what, " may wait"));
}

}  // namespace

AdmissionTicket& AdmissionTicket::operator=(AdmissionTicket&& other) noexcept {
  if (this != &other) {
    Release();
    gate_ = std::exchange(other.gate_, nullptr);
    request_ = std::move(other.request_);
    queued_ = other.queued_;
  }
  return *this;
}

void AdmissionTicket::LeaveQueue() {
  if (gate_ != nullptr && std::exchange(queued_, false)) gate_->LeaveQueue(request_);
}

void AdmissionTicket::Release() {
  LeaveQueue();
  if (gate_ != nullptr) std::exchange(gate_, nullptr)->Leave();
}

AdmissionGate::AdmissionGate(GateLimits limits, EngineQueue engine_queue, const Clock* clock)
    : limits_(limits),
      engine_queue_(std::move(engine_queue)),
      clock_(clock),
      busy_since_(clock->Now()),
      jitter_(std::random_device()()) {}

absl::StatusOr<AdmissionTicket> AdmissionGate::Take(GateRequest request) {
  const QueuedInEngine queued = engine_queue_(request.tenant);
  absl::Status refusal;
  {
    MutexLock lock(&mutex_);
    refusal = Refusal(request, queued);
    if (refusal.ok()) {
      requests_ += request.slots;
      tokens_ += TokensOf(request);
      requests_by_tenant_[request.tenant] += request.slots;
      if (num_calls_++ == 0) busy_since_ = clock_->Now();
      return AdmissionTicket(this, std::move(request));
    }
  }
  return WithRetryAfter(std::move(refusal), RetryDelay());
}

absl::Status AdmissionGate::Refusal(const GateRequest& request, const QueuedInEngine& queued) const {
  if (draining_) return MakeError(absl::StatusCode::kUnavailable, reason::kDraining, "the server is shutting down");
  if (Over(requests_ + queued.requests, request.slots, limits_.max_queued_requests)) {
    return Full(reason::kQueueFull, "the queue", limits_.max_queued_requests, "requests");
  }
  const auto tenant = requests_by_tenant_.find(request.tenant);
  const int64_t of_tenant = (tenant == requests_by_tenant_.end() ? 0 : tenant->second) + queued.requests_of_tenant;
  if (Over(of_tenant, request.slots, limits_.max_queued_requests_per_tenant)) {
    return Full(reason::kTenantQuota, "the tenant's share of the queue", limits_.max_queued_requests_per_tenant,
                "of its requests");
  }
  if (Over(tokens_ + queued.tokens, TokensOf(request), limits_.max_queued_tokens)) {
    return Full(reason::kTokensQueued, "the queue", limits_.max_queued_tokens, "prompt tokens");
  }
  return absl::OkStatus();
}

void AdmissionGate::LeaveQueue(const GateRequest& request) {
  MutexLock lock(&mutex_);
  requests_ -= request.slots;
  tokens_ -= TokensOf(request);
  const auto tenant = requests_by_tenant_.find(request.tenant);
  if ((tenant->second -= request.slots) == 0) requests_by_tenant_.erase(tenant);
}

void AdmissionGate::Leave() {
  MutexLock lock(&mutex_);
  --num_calls_;
}

void AdmissionGate::BeginDrain() {
  MutexLock lock(&mutex_);
  draining_ = true;
}

bool AdmissionGate::draining() const {
  MutexLock lock(&mutex_);
  return draining_;
}

void AdmissionGate::OnRequestEnded(int64_t slots) {
  const SteadyTime now = clock_->Now();
  MutexLock lock(&mutex_);
  const double gap = std::chrono::duration<double>(now - busy_since_).count() / static_cast<double>(slots);
  busy_since_ = now;
  mean_gap_seconds_ += kNewGapWeight * (std::min(gap, kMaxRetrySeconds) - mean_gap_seconds_);
}

SteadyDuration AdmissionGate::RetryDelay() {
  const SteadyTime now = clock_->Now();
  MutexLock lock(&mutex_);
  // Whoever was told to come back before has the turns before; those who never do leave theirs to time.
  next_turn_ = std::max(next_turn_, now) + Seconds(mean_gap_seconds_);
  next_turn_ = std::min(next_turn_, now + Seconds(kMaxRetrySeconds));
  const double seconds = std::max(kMinRetrySeconds, std::chrono::duration<double>(next_turn_ - now).count());
  const double unit =
      static_cast<double>(jitter_() - jitter_.min()) / static_cast<double>(jitter_.max() - jitter_.min());
  return Seconds(seconds * (1 - kJitter + 2 * kJitter * unit));
}

}  // namespace farspan
