// SPDX-License-Identifier: Apache-2.0
// One line in the log and one count in the metrics for each call that ends: ids, counts and times, never a client's
// text. Names beside ours are those of OpenTelemetry's conventions for generative AI.
#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "engine/base/clock.h"
#include "server/call_origin.h"
#include "server/generation_listener.h"
#include "server/json_line.h"
#include "server/server_metrics.h"

namespace farspan {

// What a generation is, as soon as it is read.
struct LoggedGeneration {
  std::string policy;
  std::string model;  // the served one's name
  bool is_chat = false;
  int num_samples = 1;
};

// Owned by one call; not thread-safe. Counts the call as started on construction.
class CallLog {
 public:
  // `method` is one of the services' names and lives for ever, as do the metrics.
  CallLog(absl::string_view method, CallOrigin origin, ServerMetrics* metrics);

  absl::string_view method() const { return method_; }
  const std::string& request_id() const { return request_id_; }
  SteadyTime arrival() const { return arrival_; }
  const CallOrigin& origin() const { return origin_; }

  // The generation that this call is, or that failed of those that it makes.
  void SetGeneration(LoggedGeneration generation) { generation_ = std::move(generation); }
  // As the engine ended it.
  void SetOutcome(const GenerationOutcome& outcome) { outcome_ = outcome; }
  // `accepted` is false when the engine never took the request. Once.
  void End(const absl::Status& status, bool accepted);

 private:
  void AddOrigin(JsonLine* line) const;
  void AddOutcome(const GenerationOutcome& outcome, JsonLine* line) const;

  const absl::string_view method_;
  const CallOrigin origin_;
  ServerMetrics* const metrics_;
  const std::string request_id_;
  const SteadyTime arrival_;
  std::optional<LoggedGeneration> generation_;
  std::optional<GenerationOutcome> outcome_;
};

}  // namespace farspan
