// SPDX-License-Identifier: Apache-2.0
#include "server/log_writer.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <utility>

namespace farspan {

struct LogWriter::State {
  State(int descriptor, size_t limit) : fd(descriptor), max_lines(limit) {}

  const int fd;
  const size_t max_lines;
  std::atomic<bool> abandoned{false};
  Mutex mutex;
  CondVar changed;
  std::deque<std::string> lines ABSL_GUARDED_BY(mutex);
  bool writing ABSL_GUARDED_BY(mutex) = false;
  bool stopping ABSL_GUARDED_BY(mutex) = false;
  int64_t dropped ABSL_GUARDED_BY(mutex) = 0;
};

namespace {

// A pipe that polls writable takes PIPE_BUF bytes without blocking. False when nothing can be written any more.
bool WriteAll(int fd, const std::string& text, const std::atomic<bool>& abandoned) {
  constexpr int kPollMilliseconds = 100;
  for (size_t done = 0; done < text.size();) {
    pollfd poller = {.fd = fd, .events = POLLOUT, .revents = 0};
    const int ready = poll(&poller, 1, kPollMilliseconds);
    if (abandoned.load(std::memory_order_relaxed)) return false;
    if (ready < 0 && errno != EINTR) return false;
    if (ready <= 0) continue;
    const ssize_t written = write(fd, text.data() + done, std::min<size_t>(text.size() - done, PIPE_BUF));
    if (written > 0) {
      done += static_cast<size_t>(written);
    } else if (errno != EINTR && errno != EAGAIN) {
      return false;
    }
  }
  return true;
}

}  // namespace

LogWriter::LogWriter(int fd, size_t max_lines)
    : state_(std::make_shared<State>(fd, max_lines)), thread_([state = state_]() noexcept { Run(state); }) {}

LogWriter::~LogWriter() {
  Flush(std::chrono::steady_clock::now() + kFlushTime);
  {
    MutexLock lock(&state_->mutex);
    state_->stopping = true;
  }
  state_->abandoned.store(true, std::memory_order_relaxed);
  state_->changed.NotifyAll();
  thread_.join();
}

void LogWriter::Write(std::string line) {
  if (line.size() > kMaxLogLineBytes) line.resize(kMaxLogLineBytes);
  line += '\n';
  {
    MutexLock lock(&state_->mutex);
    if (state_->lines.size() >= state_->max_lines) {
      ++state_->dropped;
      return;
    }
    state_->lines.push_back(std::move(line));
  }
  state_->changed.NotifyAll();
}

bool LogWriter::Flush(SteadyTime deadline) {
  MutexLock lock(&state_->mutex);
  while (!state_->lines.empty() || state_->writing) {
    if (!state_->changed.WaitUntil(&state_->mutex, deadline)) return state_->lines.empty() && !state_->writing;
  }
  return true;
}

int64_t LogWriter::num_dropped() const {
  MutexLock lock(&state_->mutex);
  return state_->dropped;
}

void LogWriter::Run(const std::shared_ptr<State>& state) {
  while (true) {
    std::string line;
    {
      MutexLock lock(&state->mutex);
      state->writing = false;
      state->changed.NotifyAll();
      while (state->lines.empty() && !state->stopping) state->changed.Wait(&state->mutex);
      if (state->stopping) return;
      line = std::move(state->lines.front());
      state->lines.pop_front();
      state->writing = true;
    }
    if (!WriteAll(state->fd, line, state->abandoned)) {
      MutexLock lock(&state->mutex);
      ++state->dropped;
    }
  }
}

}  // namespace farspan
