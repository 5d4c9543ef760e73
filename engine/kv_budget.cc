// SPDX-License-Identifier: Apache-2.0
#include "engine/kv_budget.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "engine/base/math.h"

namespace farspan {
namespace {

// For what CUDA will take itself: modules as they are loaded, recorded graphs.
constexpr int64_t kReserveBytes = int64_t{512} << 20;

int64_t ContextPages(const ModelShape& shape) { return CeilDiv(shape.max_context_tokens, shape.page_tokens); }

}  // namespace

int64_t DefaultCpuKvPages(const CpuBudget& budget, const ModelShape& shape, int64_t side_bytes_per_page) {
  constexpr int64_t kContexts = 4, kMemoryShare = 4;
  const int64_t page_bytes = shape.kv_bytes_per_page(), left_bytes = budget.memory_bytes - budget.held_bytes;
  return std::max(ContextPages(shape),
                  std::min({kContexts * ContextPages(shape), budget.memory_bytes / kMemoryShare / page_bytes,
                            left_bytes / (page_bytes + side_bytes_per_page)}));
}

absl::Status CheckCpuKvPages(const CpuBudget& budget, const ModelShape& shape, int64_t side_bytes_per_page,
                             int64_t num_pages) {
  const int64_t pages_bytes = num_pages * shape.kv_bytes_per_page(), side_bytes = num_pages * side_bytes_per_page;
  const int64_t needed_bytes = pages_bytes + side_bytes + budget.held_bytes;
  if (needed_bytes <= budget.memory_bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("KV pages of ", pages_bytes, " bytes, their side data of ", side_bytes, " and the ",
                   budget.held_bytes, " held by the model need ", needed_bytes, " bytes together, and the memory has ",
                   budget.memory_bytes, "; lower --kv-cache-bytes or, where it is not given, --max-model-len"));
}

absl::StatusOr<int64_t> GpuKvPages(const GpuBudget& budget, const ModelShape& shape, int64_t side_bytes_per_page) {
  const int64_t total_bytes = budget.whole.total_bytes, taken_bytes = total_bytes - budget.whole.free_bytes;
  const auto share_bytes = static_cast<int64_t>(budget.utilization * static_cast<double>(total_bytes));
  const int64_t left_bytes = std::min(share_bytes, total_bytes - kReserveBytes) - taken_bytes;
  const int64_t page_bytes = shape.kv_bytes_per_page() + side_bytes_per_page;
  if (left_bytes >= ContextPages(shape) * page_bytes) return left_bytes / page_bytes;
  return absl::ResourceExhaustedError(
      absl::StrCat("one context of ", shape.max_context_tokens, " tokens needs ", ContextPages(shape) * page_bytes,
                   " bytes of KV pages and side data, and ", std::max<int64_t>(left_bytes, 0), " are left of the ",
                   share_bytes, " that --gpu-memory-utilization ", budget.utilization, " gives; ", budget.held_text,
                   "; lower --max-model-len, raise --gpu-memory-utilization or set --kv-cache-bytes"));
}

}  // namespace farspan
