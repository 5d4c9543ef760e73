// SPDX-License-Identifier: Apache-2.0
// Writes lines to a file descriptor from a thread of its own. A pipe that nobody reads, or a full disk, stalls that
// thread and nobody else: lines that find the queue full are dropped and counted.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <thread>

#include "engine/base/clock.h"
#include "engine/base/mutex.h"

namespace farspan {

inline constexpr size_t kMaxLogLines = 4096;
inline constexpr size_t kMaxLogLineBytes = 8 << 10;

// Thread-safe.
class LogWriter {
 public:
  // The descriptor stays open and the caller's.
  explicit LogWriter(int fd, size_t max_lines = kMaxLogLines);
  // Waits for the queue to empty, at most for `kFlushTime`.
  ~LogWriter();
  LogWriter(const LogWriter&) = delete;
  LogWriter& operator=(const LogWriter&) = delete;

  // Never blocks on the descriptor. `line` has no line feed; it is cut at kMaxLogLineBytes.
  void Write(std::string line);

  // Waits until everything written so far has left, or for the deadline.
  bool Flush(SteadyTime deadline);

  int64_t num_dropped() const;

 private:
  static constexpr std::chrono::milliseconds kFlushTime{500};
  struct State;
  static void Run(const std::shared_ptr<State>& state);

  // Shared with the thread, which is left behind if the descriptor never takes another byte.
  const std::shared_ptr<State> state_;
  std::thread thread_;
};

}  // namespace farspan
