// SPDX-License-Identifier: Apache-2.0
#include "engine/kv_budget.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "engine/base/math.h"

namespace farspan {
namespace {

// For what is taken without being asked for: modules as they are loaded, recorded graphs.
constexpr int64_t kReserveBytes = int64_t{512} << 20;

int64_t ContextPages(const ModelShape& shape) { return CeilDiv(shape.max_context_tokens, shape.page_tokens); }

}  // namespace

int64_t DefaultKvCacheBytes(const ModelShape& shape, int64_t memory_bytes) {
  constexpr int64_t kContexts = 4;
  const int64_t context_bytes = ContextPages(shape) * shape.kv_bytes_per_page();
  return std::max(context_bytes, std::min(kContexts * context_bytes, memory_bytes / 4));
}

absl::StatusOr<int64_t> GpuKvPages(const GpuBudget& budget, const ModelShape& shape, int64_t side_bytes_per_page) {
  const auto share_bytes = static_cast<int64_t>(budget.utilization * static_cast<double>(budget.total_bytes));
  const int64_t left_bytes = std::min(share_bytes, budget.free_bytes - kReserveBytes) - budget.held_bytes;
  const int64_t page_bytes = shape.kv_bytes_per_page() + side_bytes_per_page;
  if (left_bytes >= ContextPages(shape) * page_bytes) return left_bytes / page_bytes;
  return absl::ResourceExhaustedError(absl::StrCat(
      "one context of ", shape.max_context_tokens, " tokens needs ", ContextPages(shape) * page_bytes,
      " bytes of KV pages and side data, and ", std::max<int64_t>(left_bytes, 0), " are left: of the device's ",
      budget.total_bytes, " bytes ", budget.free_bytes, " were free, ", share_bytes, " may be taken, ",
      budget.held_bytes, " are held; lower --max-model-len, raise --gpu-memory-utilization or set --kv-cache-bytes"));
}

}  // namespace farspan
