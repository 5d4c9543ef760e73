// SPDX-License-Identifier: Apache-2.0
#include "clients/loadgen/load_run.h"

#include <algorithm>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

namespace farspan::loadgen {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kProgressInterval{100};

// What calls report to the sending thread. Thread-safe.
class EndedCalls {
 public:
  void Add(size_t index, RequestRecord record) {
    const std::lock_guard<std::mutex> lock(mutex_);
    ended_.emplace_back(index, std::move(record));
    changed_.notify_one();
  }
  void WakeUp() {
    const std::lock_guard<std::mutex> lock(mutex_);
    woken_ = true;
    changed_.notify_one();
  }
  // Returns when something has ended, at `until` or on a wake-up.
  std::vector<std::pair<size_t, RequestRecord>> WaitUntil(Clock::time_point until) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait_until(lock, until, [this] { return !ended_.empty() || woken_; });
    woken_ = false;
    return std::exchange(ended_, {});
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::pair<size_t, RequestRecord>> ended_;
  bool woken_ = false;
};

class RecordedCall final : public GenerateStream {
 public:
  RecordedCall(size_t index, RequestRecord record, Clock::time_point start, std::shared_ptr<EndedCalls> ended)
      : index_(index), start_(start), record_(std::move(record)), ended_(std::move(ended)) {}

  void OnEvent(const v1::GenerateResponse& event) override { record_.OnEvent(event, Clock::now() - start_); }
  void OnDone(const absl::Status& status) override {
    record_.OnDone(status, Clock::now() - start_);
    ended_->Add(index_, std::move(record_));
  }

 private:
  const size_t index_;
  const Clock::time_point start_;
  RequestRecord record_;
  const std::shared_ptr<EndedCalls> ended_;
};

class Run {
 public:
  Run(const std::vector<Client>& clients, const LoadPlan& plan)
      : clients_(clients), plan_(plan), pacer_(plan.pacing), records_(plan.pacing.due.size()), calls_(records_.size()) {
    Prepare();
    start_ = Clock::now();
  }

  std::vector<RequestRecord> Complete(const std::stop_token& stop,
                                      absl::FunctionRef<void(const LoadProgress&)> on_progress) {
    const std::stop_callback wake(stop, [ended = ended_] { ended->WakeUp(); });
    Clock::time_point shown = start_;
    while (!pacer_.finished()) {
      if (stop.stop_requested()) StopAll();
      const LoadPacer::Step step = pacer_.Next(Clock::now() - start_);
      for (const size_t index : step.send) Send(index);
      for (const size_t index : step.cancel) calls_[index]->Cancel();
      if (pacer_.finished()) break;
      Collect(step.wake);
      if (Clock::now() - shown < kProgressInterval) continue;
      shown = Clock::now();
      on_progress({.num_sent = pacer_.num_sent(), .num_ended = num_ended_, .num_running = pacer_.num_running()});
    }
    return std::move(records_);
  }

 private:
  // So that building a long prompt delays no request.
  void Prepare() {
    if (!prepared_ && prepared_index_ < records_.size()) prepared_ = plan_.make_call(prepared_index_);
  }

  void Send(size_t index) {
    Prepare();
    RequestRecord record;
    record.sent = true;
    record.keep_tokens = plan_.keep_tokens;
    record.sent_at = Clock::now() - start_;
    record.clock_start = plan_.clock_from_due ? plan_.pacing.due[index] : record.sent_at;
    calls_[index] = std::make_shared<RecordedCall>(index, std::move(record), start_, ended_);
    clients_[index % clients_.size()].Start(prepared_->request, calls_[index], prepared_->options);
    prepared_.reset();
    prepared_index_ = index + 1;
  }

  void Collect(std::optional<RunTime> wake) {
    Prepare();
    const Clock::time_point latest = Clock::now() + kProgressInterval;
    const Clock::time_point until = wake ? std::min(latest, start_ + *wake) : latest;
    for (auto& [index, record] : ended_->WaitUntil(until)) {
      records_[index] = std::move(record);
      calls_[index].reset();
      pacer_.Ended(index);
      ++num_ended_;
    }
  }

  void StopAll() {
    pacer_.Stop();
    for (const auto& call : calls_) {
      if (call) call->Cancel();
    }
  }

  const std::vector<Client>& clients_;
  const LoadPlan& plan_;
  LoadPacer pacer_;
  std::vector<RequestRecord> records_;
  std::vector<std::shared_ptr<RecordedCall>> calls_;  // null before the sending and after the end
  const std::shared_ptr<EndedCalls> ended_ = std::make_shared<EndedCalls>();
  std::optional<LoadCall> prepared_;
  size_t prepared_index_ = 0;
  size_t num_ended_ = 0;
  Clock::time_point start_;
};

}  // namespace

std::vector<RequestRecord> RunLoad(const std::vector<Client>& clients, const LoadPlan& plan,
                                   const std::stop_token& stop,
                                   absl::FunctionRef<void(const LoadProgress&)> on_progress) {
  return Run(clients, plan).Complete(stop, on_progress);
}

}  // namespace farspan::loadgen
