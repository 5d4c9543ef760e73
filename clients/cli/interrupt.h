// SPDX-License-Identifier: Apache-2.0
// Turns Ctrl-C into a stop request for the call that runs.
#pragma once

#include <functional>
#include <mutex>
#include <optional>
#include <stop_token>

namespace farspan::cli {

// Thread-safe. While an Action lives, the first signal stops it; any other signal calls `give_up`.
class Interrupt {
 public:
  explicit Interrupt(std::function<void()> give_up) : give_up_(std::move(give_up)) {}

  void Signal();

  // One stoppable action at a time.
  class Action {
   public:
    explicit Action(Interrupt* interrupt);
    ~Action();
    Action(const Action&) = delete;
    Action& operator=(const Action&) = delete;

    std::stop_token token() const { return source_.get_token(); }
    bool interrupted() const { return source_.stop_requested(); }

   private:
    Interrupt* const interrupt_;
    std::stop_source source_;
  };

 private:
  const std::function<void()> give_up_;
  std::mutex mutex_;
  std::optional<std::stop_source> action_;
};

// Blocks SIGINT in this and all later threads and serves it on a thread of its own until the process ends. To be
// called before any other thread starts; `interrupt` must never be destroyed.
void ServeSigint(Interrupt* interrupt);

}  // namespace farspan::cli
