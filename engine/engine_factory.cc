// SPDX-License-Identifier: Apache-2.0
#include "engine/engine_factory.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "engine/base/math.h"
#include "engine/base/status_macros.h"
#include "engine/model/hash_model.h"
#include "engine/model/model_registry.h"

namespace farspan {
namespace {

// The container's limit by cgroup v2; no file or "max" is none.
int64_t ContainerMemoryBytes() {
  std::ifstream file("/sys/fs/cgroup/memory.max");
  std::string text;
  int64_t limit_bytes = 0;
  if (!(file >> text) || !absl::SimpleAtoi(text, &limit_bytes)) return std::numeric_limits<int64_t>::max();
  return limit_bytes;
}

absl::StatusOr<int64_t> NumPages(const ModelShape& shape, int64_t kv_cache_bytes) {
  const int64_t page_bytes = shape.kv_bytes_per_page();
  const int64_t wanted = kv_cache_bytes > 0 ? kv_cache_bytes : DefaultKvCacheBytes(shape, AvailableMemoryBytes());
  if (wanted < page_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("kv_cache_bytes: must hold at least one page of ", page_bytes, " bytes, got ", wanted));
  }
  constexpr int64_t kMaxPages = std::numeric_limits<std::underlying_type_t<PageId>>::max();
  if (wanted / page_bytes > kMaxPages) {
    return absl::InvalidArgumentError(absl::StrCat("kv_cache_bytes: must hold at most ", kMaxPages, " pages of ",
                                                   page_bytes, " bytes, got ", wanted));
  }
  return wanted / page_bytes;
}

using ModelFactory = absl::FunctionRef<absl::StatusOr<std::unique_ptr<Model>>(Backend*, const ModelOptions&)>;

absl::StatusOr<std::unique_ptr<Engine>> Assemble(const EngineOptions& options, MetricsSink* metrics,
                                                 ModelFactory create_model) {
  if (options.page_tokens != 16 && options.page_tokens != 32 && options.page_tokens != 64) {
    return absl::InvalidArgumentError(
        absl::StrCat("block_size: must be 16, 32 or 64 tokens, got ", options.page_tokens));
  }
  EngineParts parts{.metrics = metrics};
  FARSPAN_ASSIGN_OR_RETURN(parts.backend, CpuBackend::Create(options.backend));
  FARSPAN_ASSIGN_OR_RETURN(parts.model,
                           create_model(parts.backend.get(), {.max_batch_rows = options.engine.max_num_batched_tokens,
                                                              .max_context_tokens = options.max_context_tokens,
                                                              .page_tokens = options.page_tokens,
                                                              .kv_dtype = options.kv_dtype}));
  FARSPAN_ASSIGN_OR_RETURN(const int64_t num_pages, NumPages(parts.model->shape(), options.kv_cache_bytes));
  FARSPAN_ASSIGN_OR_RETURN(
      parts.kv_cache, KvCache::Create(parts.model->shape(), num_pages, parts.backend.get(), parts.backend->caps()));
  return Engine::Create(options.engine, std::move(parts));
}

}  // namespace

int64_t AvailableMemoryBytes() {
  const auto physical = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<int64_t>(sysconf(_SC_PAGESIZE));
  return std::min(physical, ContainerMemoryBytes());
}

int64_t DefaultKvCacheBytes(const ModelShape& shape, int64_t memory_bytes) {
  constexpr int64_t kContexts = 4;
  const int64_t context_bytes = CeilDiv(shape.max_context_tokens, shape.page_tokens) * shape.kv_bytes_per_page();
  return std::max(context_bytes, std::min(kContexts * context_bytes, memory_bytes / 4));
}

absl::StatusOr<std::unique_ptr<Engine>> CreateEngine(const GgufFile& file, const EngineOptions& options,
                                                     MetricsSink* metrics) {
  return Assemble(options, metrics, [&file](Backend* backend, const ModelOptions& model_options) {
    return LoadModel(file, backend, model_options);
  });
}

absl::StatusOr<std::unique_ptr<Engine>> CreateEngine(const HashModelOptions& hash, const EngineOptions& options,
                                                     MetricsSink* metrics) {
  return Assemble(options, metrics, [&hash](Backend*, const ModelOptions& model_options) {
    std::this_thread::sleep_for(std::chrono::milliseconds(hash.load_ms));
    return CreateHashModel(hash, model_options);
  });
}

}  // namespace farspan
