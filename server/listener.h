// SPDX-License-Identifier: Apache-2.0
// Listening TCP sockets for one host and port.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace farspan {

// Owns its descriptors, which do not block. Move-only.
class Listener {
 public:
  // One socket for each address that `host` names; port 0 takes a free one, the same for all. UNAVAILABLE names host,
  // port and reason: "port 50051 of 127.0.0.1 is already in use".
  static absl::StatusOr<Listener> Open(const std::string& host, int64_t port);

  ~Listener();
  Listener(Listener&& other) noexcept : fds_(std::move(other.fds_)), port_(other.port_) { other.fds_.clear(); }
  Listener& operator=(Listener&&) = delete;

  const std::vector<int>& fds() const { return fds_; }
  int64_t port() const { return port_; }

 private:
  Listener() = default;

  std::vector<int> fds_;
  int64_t port_ = 0;
};

}  // namespace farspan
