// SPDX-License-Identifier: Apache-2.0
// The connections that were handed to gRPC, in all and by address. gRPC closes their descriptors without telling, so
// a connection counts as open while its descriptor still names the same socket.
#pragma once

#include <sys/socket.h>
#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace farspan {

struct ConnectionLimits {
  int64_t total = 2048;
  int64_t per_address = 256;
};

// Acceptor thread only.
class ConnectionTable {
 public:
  explicit ConnectionTable(ConnectionLimits limits) : limits_(limits) {}

  // Counts `fd` as a connection from `address` and is true, or is false when that would exceed a limit. Looks for
  // closed connections only when a limit is reached: one fstat for each connection then.
  bool TryAdd(int fd, const std::string& address);

  int64_t num_connections() const { return static_cast<int64_t>(connections_.size()); }

 private:
  struct Connection {
    int fd;
    ino_t socket;
    std::string address;
  };

  bool Full(const std::string& address) const;
  void ForgetClosed();

  const ConnectionLimits limits_;
  std::vector<Connection> connections_;
  absl::flat_hash_map<std::string, int64_t> by_address_;
};

// "192.0.2.7", or the /64 network of an IPv6 address, which is what one client commonly holds.
std::string AddressKey(const sockaddr_storage& address);

}  // namespace farspan
