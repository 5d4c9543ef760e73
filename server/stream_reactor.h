// SPDX-License-Identifier: Apache-2.0
// The writing half of a server-streaming call: one write in flight, and what comes meanwhile is merged, so that a slow
// reader costs memory bounded by what its request may generate, and no thread.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <optional>
#include <utility>

#include <grpcpp/grpcpp.h>

#include "absl/status/status.h"
#include "engine/base/mutex.h"
#include "server/call_registry.h"
#include "server/error.h"
#include "server/server_metrics.h"
#include "server/status_grpc.h"

namespace farspan {

inline constexpr int64_t kUnreadLimitBytes = 64 << 10;
inline constexpr std::chrono::seconds kUnreadLimitTime{30};

// Thread-safe. Derived classes keep themselves alive with a shared_ptr that they drop in OnClosed().
template <typename Response>
class StreamReactor : public grpc::ServerWriteReactor<Response>, public StalledCheck {
 public:
  // `method` lives for ever, `metrics` longer than every call.
  StreamReactor(grpc::CallbackServerContext* context, absl::string_view method, ServerMetrics* metrics)
      : context_(context), method_(method), metrics_(metrics) {}

  // Dropped after End() and once the client is gone.
  void Push(Response response) {
    MutexLock lock(&mutex_);
    if (end_status_ || broken_) return;
    const int64_t bytes = static_cast<int64_t>(response.ByteSizeLong());
    unread_bytes_ += bytes;
    // Messages stay below what a client accepts, whatever waits.
    if (pending_.empty() || back_bytes_ + bytes > kUnreadLimitBytes || !TryMerge(&pending_.back(), response)) {
      pending_.push_back(std::move(response));
      back_bytes_ = bytes;
    } else {
      back_bytes_ += bytes;
    }
    StartNext();
  }

  // The status follows what is still to be written. The first call counts.
  void End(absl::Status status) {
    MutexLock lock(&mutex_);
    if (end_status_) return;
    end_status_ = std::move(status);
    StartNext();
  }

  void EndIfStalled(SteadyTime now) override {
    {
      MutexLock lock(&mutex_);
      if (!in_flight_ || unread_bytes_ < kUnreadLimitBytes || now - write_started_ < kUnreadLimitTime) return;
    }
    stalled_.store(true);
    // A status would have to wait behind the text that nobody reads.
    context_->TryCancel();
  }

  void OnWriteDone(bool ok) final {
    MutexLock lock(&mutex_);
    if (ok) metrics_->OnMessage(method_, MessageDirection::kSent, in_flight_bytes_);
    in_flight_.reset();
    unread_bytes_ = pending_.empty() ? 0 : unread_bytes_ - in_flight_bytes_;
    if (!ok) {
      broken_ = true;
      pending_.clear();
    }
    StartNext();
  }

  void OnDone() final { OnClosed(); }

 protected:
  // Folds `next` into `back`, which has not been sent; false when they must stay apart.
  virtual bool TryMerge(Response* back, Response& next) = 0;
  // The call is over for gRPC; nothing of it may be used after.
  virtual void OnClosed() = 0;

  grpc::CallbackServerContext* context() const { return context_; }

  // What to log of a call that ended with `status`: a client that does not read cannot be told the reason, the operator
  // can.
  absl::Status LoggedStatus(const absl::Status& status) const {
    if (!stalled_.load()) return status;
    return MakeError(absl::StatusCode::kResourceExhausted, reason::kSlowReader, "the client did not read its output");
  }

 private:
  void StartNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (in_flight_ || finished_) return;
    if (!pending_.empty()) {
      in_flight_ = std::move(pending_.front());
      pending_.pop_front();
      in_flight_bytes_ = static_cast<int64_t>(in_flight_->ByteSizeLong());
      write_started_ = std::chrono::steady_clock::now();
      this->StartWrite(&*in_flight_);
    } else if (end_status_) {
      finished_ = true;
      if (const std::optional<int64_t> pushback = RetryPushbackMilliseconds(*end_status_)) {
        context_->AddTrailingMetadata("grpc-retry-pushback-ms", std::to_string(*pushback));
      }
      this->Finish(ToGrpcStatus(*end_status_));
    }
  }

  grpc::CallbackServerContext* const context_;
  const absl::string_view method_;
  ServerMetrics* const metrics_;
  std::atomic<bool> stalled_{false};  // ended by EndIfStalled
  Mutex mutex_;
  std::deque<Response> pending_ ABSL_GUARDED_BY(mutex_);
  std::optional<Response> in_flight_ ABSL_GUARDED_BY(mutex_);  // gRPC reads it until OnWriteDone
  int64_t in_flight_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t back_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t unread_bytes_ ABSL_GUARDED_BY(mutex_) = 0;  // merging makes it an upper bound
  SteadyTime write_started_ ABSL_GUARDED_BY(mutex_){};
  std::optional<absl::Status> end_status_ ABSL_GUARDED_BY(mutex_);
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;  // the client is gone
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace farspan
