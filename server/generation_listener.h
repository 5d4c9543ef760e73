// SPDX-License-Identifier: Apache-2.0
// Who receives the events of one generation as the API spells them.
#pragma once

#include "absl/status/status.h"
#include "engine/output.h"
#include "farspan/v1/inference.pb.h"

namespace farspan {

// How a generation ended, for the log: counts and times, no text.
struct GenerationOutcome {
  absl::Status status;  // OK after a `finished` event
  FinishReason reason = FinishReason::kError;
  RequestPhase phase = RequestPhase::kQueued;
  RequestStatistics statistics;
};

// Called on the delivery thread; must not block.
class GenerationListener {
 public:
  virtual ~GenerationListener() = default;
  virtual void OnResponse(v1::GenerateResponse response) = 0;
  // Once, last.
  virtual void OnEnd(const GenerationOutcome& outcome) = 0;
};

}  // namespace farspan
