// SPDX-License-Identifier: Apache-2.0
#include "server/admission_gate.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/error.h"

namespace farspan {
namespace {

constexpr int64_t kBytesPerToken = 4;
constexpr double kMinRetrySeconds = 0.05;
constexpr double kMaxRetrySeconds = 30.0;
constexpr double kJitter = 0.2;
constexpr double kNewGapWeight = 0.2;

SteadyDuration Seconds(double seconds) {
  return std::chrono::duration_cast<SteadyDuration>(std::chrono::duration<double>(seconds));
}

}  // namespace

AdmissionTicket& AdmissionTicket::operator=(AdmissionTicket&& other) noexcept {
  if (this != &other) {
    Release();
    gate_ = std::exchange(other.gate_, nullptr);
    tokens_ = other.tokens_;
  }
  return *this;
}

void AdmissionTicket::Release() {
  if (gate_ != nullptr) std::exchange(gate_, nullptr)->Return(tokens_);
}

AdmissionGate::AdmissionGate(GateLimits limits, std::function<QueuedInEngine()> engine_queue, const Clock* clock)
    : limits_(limits),
      engine_queue_(std::move(engine_queue)),
      clock_(clock),
      last_end_(clock->Now()),
      jitter_(std::random_device()()) {}

absl::StatusOr<AdmissionTicket> AdmissionGate::Take(int64_t request_bytes) {
  const int64_t tokens = std::max<int64_t>(1, request_bytes / kBytesPerToken);
  const QueuedInEngine queued = engine_queue_();
  absl::Status refusal;
  {
    MutexLock lock(&mutex_);
    const int64_t waiting_tokens = tokens_ + queued.tokens;
    if (draining_) {
      refusal = MakeError(absl::StatusCode::kUnavailable, reason::kDraining, "the server is shutting down");
    } else if (requests_ + queued.requests >= limits_.max_queued_requests) {
      refusal =
          MakeError(absl::StatusCode::kResourceExhausted, reason::kQueueFull,
                    absl::StrCat("the queue is full: at most ", limits_.max_queued_requests, " requests may wait"));
    } else if (waiting_tokens > 0 && waiting_tokens + tokens > limits_.max_queued_tokens) {
      // A prompt longer than the whole limit may still wait alone.
      refusal =
          MakeError(absl::StatusCode::kResourceExhausted, reason::kTokensQueued,
                    absl::StrCat("the queue is full: at most ", limits_.max_queued_tokens, " prompt tokens may wait"));
    } else {
      ++requests_;
      tokens_ += tokens;
      return AdmissionTicket(this, tokens);
    }
  }
  return WithRetryAfter(std::move(refusal), RetryDelay());
}

void AdmissionGate::Return(int64_t tokens) {
  MutexLock lock(&mutex_);
  --requests_;
  tokens_ -= tokens;
}

void AdmissionGate::BeginDrain() {
  MutexLock lock(&mutex_);
  draining_ = true;
}

bool AdmissionGate::draining() const {
  MutexLock lock(&mutex_);
  return draining_;
}

void AdmissionGate::OnRequestEnded() {
  const SteadyTime now = clock_->Now();
  MutexLock lock(&mutex_);
  const double gap = std::chrono::duration<double>(now - last_end_).count();
  last_end_ = now;
  mean_gap_seconds_ += kNewGapWeight * (std::min(gap, kMaxRetrySeconds) - mean_gap_seconds_);
}

SteadyDuration AdmissionGate::RetryDelay() {
  MutexLock lock(&mutex_);
  const double unit =
      static_cast<double>(jitter_() - jitter_.min()) / static_cast<double>(jitter_.max() - jitter_.min());
  const double jittered = mean_gap_seconds_ * (1 - kJitter + 2 * kJitter * unit);
  return Seconds(std::clamp(jittered, kMinRetrySeconds, kMaxRetrySeconds));
}

}  // namespace farspan
