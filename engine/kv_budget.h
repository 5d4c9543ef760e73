// SPDX-License-Identifier: Apache-2.0
// How much memory KV pages get where nobody says.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "engine/backend/backend.h"
#include "engine/base/model_shape.h"

namespace farspan {

// On the CPU: room for four full contexts, at most a quarter of `memory_bytes`, at least one full context.
int64_t DefaultKvCacheBytes(const ModelShape& shape, int64_t memory_bytes);

struct GpuBudget {
  DeviceMemory whole;      // with all but the pages in its place
  double utilization = 0;  // share of it that all that is not free, KV pages included, may be
  std::string held_text;   // what is held, as HeldText says it
};

// On a GPU: pages of as much as is left of the share beside everything else, whoever holds it, each with its side data.
// RESOURCE_EXHAUSTED, with every number, where that is less than one full context.
absl::StatusOr<int64_t> GpuKvPages(const GpuBudget& budget, const ModelShape& shape, int64_t side_bytes_per_page);

}  // namespace farspan
