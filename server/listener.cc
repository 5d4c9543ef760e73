// SPDX-License-Identifier: Apache-2.0
#include "server/listener.h"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <system_error>

#include "absl/strings/str_cat.h"

namespace farspan {
namespace {

absl::Status ListenError(const std::string& host, int64_t port, int error) {
  if (error == EADDRINUSE) {
    return absl::UnavailableError(absl::StrCat("port ", port, " of ", host, " is already in use"));
  }
  return absl::UnavailableError(
      absl::StrCat("cannot listen on port ", port, " of ", host, ": ", std::generic_category().message(error)));
}

int64_t BoundPort(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) return 0;
  return ntohs(address.ss_family == AF_INET ? reinterpret_cast<const sockaddr_in&>(address).sin_port
                                            : reinterpret_cast<const sockaddr_in6&>(address).sin6_port);
}

void SetPort(int64_t port, sockaddr* address) {
  const in_port_t network_port = htons(static_cast<uint16_t>(port));
  if (address->sa_family == AF_INET) {
    reinterpret_cast<sockaddr_in*>(address)->sin_port = network_port;
  } else {
    reinterpret_cast<sockaddr_in6*>(address)->sin6_port = network_port;
  }
}

// The listening descriptor, or the negated error.
int ListenOn(const addrinfo& address) {
  constexpr int kOn = 1;
  constexpr int kBacklog = 1024;
  const int fd = socket(address.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return -errno;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &kOn, sizeof kOn);
  if (address.ai_family == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &kOn, sizeof kOn);
  if (bind(fd, address.ai_addr, address.ai_addrlen) == 0 && listen(fd, kBacklog) == 0) return fd;
  const int error = errno;
  close(fd);
  return -error;
}

}  // namespace

absl::StatusOr<Listener> Listener::Open(const std::string& host, int64_t port) {
  addrinfo hints{};
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int error = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found); error != 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", host, ": ", gai_strerror(error)));
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> addresses(found, freeaddrinfo);
  Listener listener;
  listener.port_ = port;
  for (addrinfo* address = found; address != nullptr; address = address->ai_next) {
    if (address->ai_family != AF_INET && address->ai_family != AF_INET6) continue;
    SetPort(listener.port_, address->ai_addr);
    const int fd = ListenOn(*address);
    // A name such as localhost may stand for an address family that this machine does not have.
    if (fd == -EAFNOSUPPORT || fd == -EADDRNOTAVAIL) continue;
    if (fd < 0) return ListenError(host, listener.port_, -fd);
    listener.fds_.push_back(fd);
    if (listener.port_ == 0) listener.port_ = BoundPort(fd);
  }
  if (listener.fds_.empty()) return ListenError(host, port, EADDRNOTAVAIL);
  return listener;
}

Listener::~Listener() {
  for (const int fd : fds_) close(fd);
}

}  // namespace farspan
