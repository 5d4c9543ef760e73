// SPDX-License-Identifier: Apache-2.0
// One plain HTTP GET, bounded in time and size; enough to read a server's /metrics.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace farspan {

struct HttpUrl {
  std::string host;  // without the brackets of an IPv6 address
  std::string port;
  std::string path;  // begins with '/'
};

// http://HOST[:PORT][/PATH]; INVALID_ARGUMENT for anything else.
absl::StatusOr<HttpUrl> ParseHttpUrl(absl::string_view url);

struct HttpLimits {
  std::chrono::milliseconds timeout{5'000};  // of the whole exchange
  uint64_t max_body_bytes = uint64_t{32} << 20;
};

// The body of a 200 answer. UNAVAILABLE: no connection, or another status; DEADLINE_EXCEEDED: too slow;
// RESOURCE_EXHAUSTED: too large; INTERNAL: no HTTP. Blocks; thread-safe.
absl::StatusOr<std::string> HttpGet(const HttpUrl& url, const HttpLimits& limits = {});

}  // namespace farspan
