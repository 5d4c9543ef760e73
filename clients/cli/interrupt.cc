// SPDX-License-Identifier: Apache-2.0
#include "clients/cli/interrupt.h"

#include <csignal>
#include <thread>
#include <utility>

namespace farspan::cli {

// The stop request runs gRPC's cancellation on this thread, so the lock is not held around it.
void Interrupt::Signal() {
  std::optional<std::stop_source> action;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    action = action_;
  }
  if (!action || !action->request_stop()) give_up_();
}

Interrupt::Action::Action(Interrupt* interrupt) : interrupt_(interrupt) {
  const std::lock_guard<std::mutex> lock(interrupt_->mutex_);
  interrupt_->action_ = source_;
}

Interrupt::Action::~Action() {
  const std::lock_guard<std::mutex> lock(interrupt_->mutex_);
  interrupt_->action_.reset();
}

void ServeSigint(Interrupt* interrupt) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::thread([interrupt, signals] {
    for (int signal = 0; sigwait(&signals, &signal) == 0;) interrupt->Signal();
  }).detach();
}

}  // namespace farspan::cli
