// SPDX-License-Identifier: Apache-2.0
// One line in the log and one count in the metrics for each call that ends: ids, counts and times, never a client's
// text.
#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "engine/base/clock.h"
#include "server/generation_listener.h"
#include "server/server_metrics.h"

namespace farspan {

// Owned by one call; not thread-safe. Counts the call as started on construction.
class CallLog {
 public:
  // `method` is one of the services' names and lives for ever, as do the metrics.
  CallLog(absl::string_view method, ServerMetrics* metrics);

  const std::string& request_id() const { return request_id_; }
  SteadyTime arrival() const { return arrival_; }

  // A generation of this call, as the engine ended it.
  void SetOutcome(absl::string_view policy, const GenerationOutcome& outcome);
  // `accepted` is false when the engine never took the request. Once.
  void End(const absl::Status& status, bool accepted);

 private:
  const absl::string_view method_;
  ServerMetrics* const metrics_;
  const std::string request_id_;
  const SteadyTime arrival_;
  std::string policy_;
  std::optional<GenerationOutcome> outcome_;
};

}  // namespace farspan
