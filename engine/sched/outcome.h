// SPDX-License-Identifier: Apache-2.0
// How a sequence ends: decided once, by whoever sees the reason first.
#pragma once

#include <optional>

#include "absl/status/status.h"
#include "engine/base/ids.h"
#include "engine/output.h"

namespace farspan {

struct Outcome {
  FinishReason reason = FinishReason::kError;
  absl::Status status;
  std::optional<TokenId> stop_token;
};

}  // namespace farspan
