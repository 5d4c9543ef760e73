// SPDX-License-Identifier: Apache-2.0
#include "server/acceptor.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <utility>
#include <vector>

#include "engine/base/check.h"

namespace farspan {
namespace {

constexpr int kBackOffMilliseconds = 10;

bool IsExhaustion(int error) { return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM; }

}  // namespace

Acceptor::Acceptor(Listener listener, ConnectionLimits limits, OnConnection on_connection)
    : listener_(std::move(listener)),
      table_(limits),
      on_connection_(std::move(on_connection)),
      wake_fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  FARSPAN_CHECK(wake_fd_ >= 0);
  thread_ = std::thread([this]() noexcept { Run(); });
}

Acceptor::~Acceptor() {
  Stop();
  close(wake_fd_);
}

void Acceptor::Stop() {
  if (!thread_.joinable()) return;
  const uint64_t one = 1;
  FARSPAN_CHECK(write(wake_fd_, &one, sizeof one) == sizeof one);
  thread_.join();
  // Ends the backlog too: a client that was not accepted is refused rather than left waiting.
  const Listener closed = std::move(listener_);
}

void Acceptor::Run() {
  std::vector<pollfd> pollers;
  for (const int fd : listener_.fds()) pollers.push_back({.fd = fd, .events = POLLIN, .revents = 0});
  pollers.push_back({.fd = wake_fd_, .events = POLLIN, .revents = 0});
  while (true) {
    if (poll(pollers.data(), pollers.size(), -1) < 0) {
      // Out of memory, or out of descriptors by a limit lowered since: never a reason to stop accepting.
      if (errno != EINTR) std::this_thread::sleep_for(std::chrono::milliseconds(kBackOffMilliseconds));
      continue;
    }
    if (pollers.back().revents != 0) return;
    bool exhausted = false;
    for (const int fd : listener_.fds()) exhausted |= !AcceptAll(fd);
    // The port stays readable meanwhile, so without a pause this would spin.
    if (exhausted) poll(&pollers.back(), 1, kBackOffMilliseconds);
  }
}

bool Acceptor::AcceptAll(int listener_fd) {
  constexpr int kOn = 1;
  while (true) {
    sockaddr_storage address{};
    socklen_t size = sizeof address;
    const int fd = accept4(listener_fd, reinterpret_cast<sockaddr*>(&address), &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      if (!IsExhaustion(errno)) return true;
      num_exhausted_.fetch_add(1, std::memory_order_relaxed);
      return false;
    }
    if (!table_.TryAdd(fd, AddressKey(address))) {
      num_refused_.fetch_add(1, std::memory_order_relaxed);
      close(fd);
      continue;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &kOn, sizeof kOn);
    on_connection_(listener_fd, fd);
  }
}

}  // namespace farspan
