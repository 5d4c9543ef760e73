// SPDX-License-Identifier: Apache-2.0
// The accept loop of the gRPC port. gRPC's own one never accepts again after a single EMFILE (1.51); this one backs off
// and goes on, and it holds the limits on connections.
#pragma once

#include <atomic>
#include <functional>
#include <thread>

#include "engine/base/clock.h"
#include "server/connection_table.h"
#include "server/listener.h"

namespace farspan {

// Owns its thread and sockets.
class Acceptor {
 public:
  // `on_connection` takes a connected descriptor that does not block, and owns it. Acceptor thread.
  using OnConnection = std::function<void(int listener_fd, int fd)>;

  Acceptor(Listener listener, ConnectionLimits limits, OnConnection on_connection);
  ~Acceptor();
  Acceptor(const Acceptor&) = delete;
  Acceptor& operator=(const Acceptor&) = delete;

  // Closes the port. Idempotent; not thread-safe.
  void Stop();

  // Connections closed at once because of a limit.
  int64_t num_refused() const { return num_refused_.load(std::memory_order_relaxed); }
  // Times that the system had no descriptor or memory for a connection.
  int64_t num_exhausted() const { return num_exhausted_.load(std::memory_order_relaxed); }

 private:
  void Run();
  // False when the system is out of descriptors or memory for now.
  bool AcceptAll(int listener_fd);

  Listener listener_;
  ConnectionTable table_;  // acceptor thread only
  const OnConnection on_connection_;
  std::atomic<int64_t> num_refused_{0};
  std::atomic<int64_t> num_exhausted_{0};
  int wake_fd_;
  std::thread thread_;
};

}  // namespace farspan
