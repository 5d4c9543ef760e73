// SPDX-License-Identifier: Apache-2.0
// What the server itself counts, beside the engine's MetricsSink. Labels come from closed sets: a policy's name is one
// of the registry, a reason one of server/error.h, a method one of the services'.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "engine/base/clock.h"

namespace farspan {

// Thread-safe; must not block.
class ServerMetrics {
 public:
  virtual ~ServerMetrics() = default;
  // A request refused before the engine accepted it; `reason` as in ErrorInfo.
  virtual void OnRejected(absl::string_view reason) = 0;
  virtual void OnCallStarted(absl::string_view method) = 0;
  virtual void OnCallEnded(absl::string_view method, absl::StatusCode code, SteadyDuration duration) = 0;
  virtual void OnDraining() = 0;
};

}  // namespace farspan
