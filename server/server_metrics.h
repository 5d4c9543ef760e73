// SPDX-License-Identifier: Apache-2.0
// What the server itself counts, beside the engine's MetricsSink. Labels come from closed sets: a policy's name is one
// of the registry, a reason one of server/error.h, a method one of the services'.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "engine/base/clock.h"

namespace farspan {

enum class MessageDirection : uint8_t { kReceived, kSent };

// One row of a comparison, beside its reference's.
struct ComparedEvent {
  absl::string_view policy;
  absl::string_view reference;
  std::optional<int64_t> first_divergence;  // as FirstDivergence
  double token_agreement = 0;               // as TokenAgreement
};

// Thread-safe; must not block.
class ServerMetrics {
 public:
  virtual ~ServerMetrics() = default;
  // A request refused before the engine accepted it; `reason` as in ErrorInfo.
  virtual void OnRejected(absl::string_view reason) = 0;
  virtual void OnCallStarted(absl::string_view method) = 0;
  virtual void OnCallEnded(absl::string_view method, absl::StatusCode code, SteadyDuration duration) = 0;
  virtual void OnMessage(absl::string_view method, MessageDirection direction, int64_t bytes) = 0;
  virtual void OnCompared(const ComparedEvent& event) = 0;
  virtual void OnDraining() = 0;
};

}  // namespace farspan
