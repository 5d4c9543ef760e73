// SPDX-License-Identifier: Apache-2.0
#include "engine/engine_factory.h"

#include <limits>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "engine/backend/memory_text.h"
#include "engine/base/check.h"
#include "engine/base/log.h"
#include "engine/base/status_macros.h"
#include "engine/kv_budget.h"
#include "engine/model/hash_model.h"
#include "engine/model/model_registry.h"
#include "engine/model/warm_up.h"

namespace farspan {
namespace {

// Pages of `kv_cache_bytes`.
absl::StatusOr<int64_t> PagesOf(const ModelShape& shape, int64_t kv_cache_bytes) {
  const int64_t page_bytes = shape.kv_bytes_per_page();
  if (kv_cache_bytes < page_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("kv_cache_bytes: must hold at least one page of ", page_bytes, " bytes, got ", kv_cache_bytes));
  }
  constexpr int64_t kMaxPages = std::numeric_limits<std::underlying_type_t<PageId>>::max();
  if (kv_cache_bytes / page_bytes > kMaxPages) {
    return absl::InvalidArgumentError(absl::StrCat("kv_cache_bytes: must hold at most ", kMaxPages, " pages of ",
                                                   page_bytes, " bytes, got ", kv_cache_bytes));
  }
  return kv_cache_bytes / page_bytes;
}

// With the model loaded on `backend`, which was the device's.
absl::StatusOr<int64_t> NumPages(const EngineOptions& options, const Device& device, const ModelShape& shape,
                                 const Backend& backend) {
  const int64_t side_bytes_per_page = KvCache::SideDataBytesPerPage(shape, backend.caps());
  if (device.is_cuda) {
    if (options.kv_cache_bytes > 0) return PagesOf(shape, options.kv_cache_bytes);
    const GpuBudget budget = {
        .whole = backend.WholeMemory(), .utilization = options.gpu_memory_utilization, .held_text = HeldText(backend)};
    return GpuKvPages(budget, shape, side_bytes_per_page);
  }
  const CpuBudget budget = {.memory_bytes = AvailableMemoryBytes(), .held_bytes = HeldBytes(backend)};
  int64_t num_pages = DefaultCpuKvPages(budget, shape, side_bytes_per_page);
  if (options.kv_cache_bytes > 0) {
    FARSPAN_ASSIGN_OR_RETURN(num_pages, PagesOf(shape, options.kv_cache_bytes));
  }
  FARSPAN_RETURN_IF_ERROR(CheckCpuKvPages(budget, shape, side_bytes_per_page, num_pages));
  return num_pages;
}

using ModelFactory = absl::FunctionRef<absl::StatusOr<std::unique_ptr<Model>>(Backend*, const ModelOptions&)>;

absl::StatusOr<std::unique_ptr<Engine>> Assemble(Device device, const EngineOptions& options, MetricsSink* metrics,
                                                 ModelFactory create_model) {
  const int64_t page_tokens = options.page_tokens.value_or(device.default_page_tokens);
  if (page_tokens != 16 && page_tokens != 32 && page_tokens != 64) {
    return absl::InvalidArgumentError(absl::StrCat("block_size: must be 16, 32 or 64 tokens, got ", page_tokens));
  }
  EngineParts parts{.backend = std::move(device.backend), .metrics = metrics};
  FARSPAN_ASSIGN_OR_RETURN(parts.model,
                           create_model(parts.backend.get(), {.max_batch_rows = options.engine.max_num_batched_tokens,
                                                              .max_sequences = options.engine.max_num_seqs,
                                                              .max_context_tokens = options.max_context_tokens,
                                                              .page_tokens = page_tokens,
                                                              .kv_dtype = options.kv_dtype}));
  FARSPAN_ASSIGN_OR_RETURN(const int64_t num_pages, NumPages(options, device, parts.model->shape(), *parts.backend));
  FARSPAN_ASSIGN_OR_RETURN(
      parts.kv_cache, KvCache::Create(parts.model->shape(), num_pages, parts.backend.get(), parts.backend->caps()));
  FARSPAN_RETURN_IF_ERROR(WarmUp(*parts.backend, options.engine.max_num_seqs, parts.model.get(), parts.kv_cache.get()));
  Log().info("memory of {}: {}", parts.backend->name(), HeldText(*parts.backend));
  return Engine::Create(options.engine, std::move(parts));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> CreateEngine(const GgufFile& file, const EngineOptions& options,
                                                     MetricsSink* metrics) {
  FARSPAN_ASSIGN_OR_RETURN(Device device, OpenDevice(options.device, options.cpu));
  return CreateEngine(std::move(device), file, options, metrics);
}

absl::StatusOr<std::unique_ptr<Engine>> CreateEngine(Device device, const GgufFile& file, const EngineOptions& options,
                                                     MetricsSink* metrics) {
  return Assemble(std::move(device), options, metrics, [&file](Backend* backend, const ModelOptions& model_options) {
    return LoadModel(file, backend, model_options);
  });
}

absl::StatusOr<std::unique_ptr<Engine>> CreateEngine(const RandomModelOptions& random, const EngineOptions& options,
                                                     MetricsSink* metrics) {
  FARSPAN_ASSIGN_OR_RETURN(Device device, OpenDevice(options.device, options.cpu));
  return CreateEngine(std::move(device), random, options, metrics);
}

absl::StatusOr<std::unique_ptr<Engine>> CreateEngine(Device device, const RandomModelOptions& random,
                                                     const EngineOptions& options, MetricsSink* metrics) {
  return Assemble(std::move(device), options, metrics, [&random](Backend* backend, const ModelOptions& model_options) {
    return LoadModel(random, backend, model_options);
  });
}

absl::StatusOr<std::unique_ptr<Engine>> CreateEngine(const HashModelOptions& hash, const EngineOptions& options,
                                                     MetricsSink* metrics) {
  FARSPAN_ASSIGN_OR_RETURN(const DeviceChoice choice, ChooseCpu(options.device, "the hash model"));
  FARSPAN_ASSIGN_OR_RETURN(Device device, OpenDevice(choice, options.cpu));
  return CreateEngine(std::move(device), hash, options, metrics);
}

absl::StatusOr<std::unique_ptr<Engine>> CreateEngine(Device device, const HashModelOptions& hash,
                                                     const EngineOptions& options, MetricsSink* metrics) {
  FARSPAN_CHECK(!device.is_cuda, "the hash model on a GPU");
  return Assemble(std::move(device), options, metrics, [&hash](Backend*, const ModelOptions& model_options) {
    std::this_thread::sleep_for(std::chrono::milliseconds(hash.load_ms));
    return CreateHashModel(hash, model_options);
  });
}

}  // namespace farspan
