// SPDX-License-Identifier: Apache-2.0
// How much memory KV pages get where nobody says.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "engine/base/model_shape.h"

namespace farspan {

// On the CPU: room for four full contexts, at most a quarter of `memory_bytes`, at least one full context.
int64_t DefaultKvCacheBytes(const ModelShape& shape, int64_t memory_bytes);

struct GpuBudget {
  int64_t total_bytes = 0;  // of the device
  int64_t free_bytes = 0;   // of it, before this server took anything
  int64_t held_bytes = 0;   // by weights, activations and workspace
  double utilization = 0;   // share of total_bytes that all of it, KV pages included, may take
};

// On a GPU: pages of as much as is left, each with its side data. RESOURCE_EXHAUSTED, with every number, where that is
// less than one full context.
absl::StatusOr<int64_t> GpuKvPages(const GpuBudget& budget, const ModelShape& shape, int64_t side_bytes_per_page);

}  // namespace farspan
