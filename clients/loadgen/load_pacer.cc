// SPDX-License-Identifier: Apache-2.0
#include "clients/loadgen/load_pacer.h"

#include <algorithm>

namespace farspan::loadgen {

LoadPacer::LoadPacer(PacerOptions options) : options_(std::move(options)), running_(options_.due.size(), false) {}

void LoadPacer::DropEndedCancellations() {
  while (!cancellations_.empty() && !running_[cancellations_.top().second]) cancellations_.pop();
}

LoadPacer::Step LoadPacer::Next(RunTime now) {
  Step step;
  while (CanSend() && options_.due[next_] <= now) {
    running_[next_] = true;
    ++num_running_;
    if (!options_.cancel_after.empty() && options_.cancel_after[next_]) {
      cancellations_.emplace(now + *options_.cancel_after[next_], next_);
    }
    step.send.push_back(next_++);
  }
  DropEndedCancellations();
  while (!cancellations_.empty() && cancellations_.top().first <= now) {
    step.cancel.push_back(cancellations_.top().second);
    cancellations_.pop();
    DropEndedCancellations();
  }
  if (CanSend()) step.wake = options_.due[next_];
  if (!cancellations_.empty()) {
    const RunTime cancel_at = cancellations_.top().first;
    step.wake = step.wake ? std::min(*step.wake, cancel_at) : cancel_at;
  }
  return step;
}

void LoadPacer::Ended(size_t index) {
  running_[index] = false;
  --num_running_;
}

}  // namespace farspan::loadgen
