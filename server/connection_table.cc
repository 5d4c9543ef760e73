// SPDX-License-Identifier: Apache-2.0
#include "server/connection_table.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/stat.h>

#include <algorithm>
#include <optional>
#include <utility>

namespace farspan {
namespace {

std::optional<ino_t> SocketOf(int fd) {
  struct stat status {};
  if (fstat(fd, &status) != 0 || !S_ISSOCK(status.st_mode)) return std::nullopt;
  return status.st_ino;
}

}  // namespace

bool ConnectionTable::TryAdd(int fd, const std::string& address) {
  if (Full(address)) ForgetClosed();
  if (Full(address)) return false;
  const std::optional<ino_t> socket = SocketOf(fd);
  if (!socket) return false;
  connections_.push_back({fd, *socket, address});
  ++by_address_[address];
  return true;
}

bool ConnectionTable::Full(const std::string& address) const {
  if (num_connections() >= limits_.total) return true;
  const auto count = by_address_.find(address);
  return count != by_address_.end() && count->second >= limits_.per_address;
}

void ConnectionTable::ForgetClosed() {
  std::erase_if(connections_, [this](const Connection& connection) {
    if (SocketOf(connection.fd) == connection.socket) return false;
    const auto count = by_address_.find(connection.address);
    if (--count->second == 0) by_address_.erase(count);
    return true;
  });
}

std::string AddressKey(const sockaddr_storage& address) {
  char text[INET6_ADDRSTRLEN] = "";
  if (address.ss_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(address);
    inet_ntop(AF_INET, &v4.sin_addr, text, sizeof text);
  } else if (address.ss_family == AF_INET6) {
    in6_addr network = reinterpret_cast<const sockaddr_in6&>(address).sin6_addr;
    std::fill(network.s6_addr + 8, network.s6_addr + 16, uint8_t{0});
    inet_ntop(AF_INET6, &network, text, sizeof text);
  }
  return text;
}

}  // namespace farspan
