// SPDX-License-Identifier: Apache-2.0
// Decides when each request of a load run is sent and cancelled. It has neither a clock nor threads: the caller tells
// the time, which never runs backwards.
#pragma once

#include <functional>
#include <optional>
#include <queue>
#include <utility>
#include <vector>

#include "clients/loadgen/request_record.h"

namespace farspan::loadgen {

struct PacerOptions {
  // Ascending; one a request.
  std::vector<RunTime> due;
  // Requests in flight at most; further ones wait here, their clocks running. 0: no bound.
  size_t max_concurrency = 0;
  // From sending to cancelling; empty, or one a request.
  std::vector<std::optional<RunTime>> cancel_after;
};

// Not thread-safe.
class LoadPacer {
 public:
  explicit LoadPacer(PacerOptions options);

  struct Step {
    std::vector<size_t> send;    // in order of arrival; count as running from now on
    std::vector<size_t> cancel;  // running calls whose time has come, each once
    // When to ask again unless a request ends before; none: only an end changes anything.
    std::optional<RunTime> wake;
  };
  Step Next(RunTime now);

  // A request that was sent has ended. Once each.
  void Ended(size_t index);
  // Sends no more.
  void Stop() { stopped_ = true; }

  // Nothing runs and nothing will be sent.
  bool finished() const { return num_running_ == 0 && (stopped_ || next_ == options_.due.size()); }
  size_t num_sent() const { return next_; }
  size_t num_running() const { return num_running_; }

 private:
  using Cancellation = std::pair<RunTime, size_t>;
  bool HasSlot() const { return options_.max_concurrency == 0 || num_running_ < options_.max_concurrency; }
  bool CanSend() const { return !stopped_ && next_ < options_.due.size() && HasSlot(); }
  void DropEndedCancellations();

  const PacerOptions options_;
  std::vector<bool> running_;
  std::priority_queue<Cancellation, std::vector<Cancellation>, std::greater<>> cancellations_;
  size_t next_ = 0;
  size_t num_running_ = 0;
  bool stopped_ = false;
};

}  // namespace farspan::loadgen
