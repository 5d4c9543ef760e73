// SPDX-License-Identifier: Apache-2.0
// How much memory KV pages get where nobody says, and whether what somebody says fits.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/backend/backend.h"
#include "engine/base/model_shape.h"

namespace farspan {

struct CpuBudget {
  int64_t memory_bytes = 0;  // of the machine, or of its container
  int64_t held_bytes = 0;    // with all but the pages in its place
};

// On the CPU: pages of four full contexts, at most a quarter of the memory and what is left beside `held_bytes`, each
// page with its side data, but at least one full context, whether it fits or not.
int64_t DefaultCpuKvPages(const CpuBudget& budget, const ModelShape& shape, int64_t side_bytes_per_page);

// RESOURCE_EXHAUSTED, with every number, where the pages with their side data do not fit beside what is held.
absl::Status CheckCpuKvPages(const CpuBudget& budget, const ModelShape& shape, int64_t side_bytes_per_page,
                             int64_t num_pages);

struct GpuBudget {
  DeviceMemory whole;      // with all but the pages in its place
  double utilization = 0;  // share of it that all that is not free, KV pages included, may be
  std::string held_text;   // what is held, as HeldText says it
};

// On a GPU: pages of as much as is left of the share beside everything else, whoever holds it, each with its side data.
// RESOURCE_EXHAUSTED, with every number, where that is less than one full context.
absl::StatusOr<int64_t> GpuKvPages(const GpuBudget& budget, const ModelShape& shape, int64_t side_bytes_per_page);

}  // namespace farspan
