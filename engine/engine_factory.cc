// SPDX-License-Identifier: Apache-2.0
#include "engine/engine_factory.h"

#include <algorithm>
#include <limits>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "engine/backend/device.h"
#include "engine/base/math.h"
#include "engine/base/status_macros.h"
#include "engine/model/hash_model.h"
#include "engine/model/model_registry.h"

namespace farspan {
namespace {

absl::StatusOr<int64_t> NumPages(const ModelShape& shape, int64_t kv_cache_bytes, int64_t memory_bytes) {
  const int64_t page_bytes = shape.kv_bytes_per_page();
  const int64_t wanted = kv_cache_bytes > 0 ? kv_cache_bytes : DefaultKvCacheBytes(shape, memory_bytes);
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
  FARSPAN_ASSIGN_OR_RETURN(Device device, OpenDevice(options.device, options.cpu));
  const int64_t page_tokens = options.page_tokens.value_or(device.default_page_tokens);
  if (page_tokens != 16 && page_tokens != 32 && page_tokens != 64) {
    return absl::InvalidArgumentError(absl::StrCat("block_size: must be 16, 32 or 64 tokens, got ", page_tokens));
  }
  EngineParts parts{.backend = std::move(device.backend), .metrics = metrics};
  FARSPAN_ASSIGN_OR_RETURN(parts.model,
                           create_model(parts.backend.get(), {.max_batch_rows = options.engine.max_num_batched_tokens,
                                                              .max_context_tokens = options.max_context_tokens,
                                                              .page_tokens = page_tokens,
                                                              .kv_dtype = options.kv_dtype}));
  FARSPAN_ASSIGN_OR_RETURN(const int64_t num_pages,
                           NumPages(parts.model->shape(), options.kv_cache_bytes, device.free_memory_bytes));
  FARSPAN_ASSIGN_OR_RETURN(
      parts.kv_cache, KvCache::Create(parts.model->shape(), num_pages, parts.backend.get(), parts.backend->caps()));
  return Engine::Create(options.engine, std::move(parts));
}

}  // namespace

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

absl::StatusOr<std::unique_ptr<Engine>> CreateEngine(const RandomModelOptions& random, const EngineOptions& options,
                                                     MetricsSink* metrics) {
  return Assemble(options, metrics, [&random](Backend* backend, const ModelOptions& model_options) {
    return LoadModel(random, backend, model_options);
  });
}

absl::StatusOr<std::unique_ptr<Engine>> CreateEngine(const HashModelOptions& hash, const EngineOptions& options,
                                                     MetricsSink* metrics) {
  // It reads pages where they lie.
  EngineOptions on_cpu = options;
  if (options.device == "auto") on_cpu.device = "cpu";
  if (on_cpu.device != "cpu") {
    return absl::InvalidArgumentError(
        absl::StrCat("device: must be auto or cpu for the hash model, got '", options.device, "'"));
  }
  return Assemble(on_cpu, metrics, [&hash](Backend*, const ModelOptions& model_options) {
    std::this_thread::sleep_for(std::chrono::milliseconds(hash.load_ms));
    return CreateHashModel(hash, model_options);
  });
}

}  // namespace farspan
