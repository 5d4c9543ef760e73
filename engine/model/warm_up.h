// SPDX-License-Identifier: Apache-2.0
// Runs steps of every size that serving will meet before the first request comes, so that none waits while a device
// loads code, chooses algorithms or records a step.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "engine/backend/backend.h"
#include "engine/kv/kv_cache.h"
#include "engine/model/model.h"

namespace farspan {

// Engine thread, or before there is one. Writes the first token of page 0, which must be nobody's, and reads nothing
// else. Does nothing where the backend records no steps. Steps that choose what they read are not among these. 8B on an
// H200, 8,192 rows: below a second.
absl::Status WarmUp(const Backend& backend, int64_t max_sequences, Model* model, KvCache* kv);

}  // namespace farspan
