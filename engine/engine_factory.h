// SPDX-License-Identifier: Apache-2.0
// Assembles an engine from a model file, or over the hash model: backend, weights, KV cache, loop.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "engine/backend/cpu_backend.h"
#include "engine/backend/device.h"
#include "engine/engine.h"
#include "engine/model/gguf.h"
#include "engine/model/hash_model_options.h"
#include "engine/model/random_model_options.h"

namespace farspan {

struct EngineOptions {
  std::string device = "cpu";          // or "auto" or "cuda:N"; see OpenDevice; not read where a Device is given
  CpuBackendOptions cpu;               // where the CPU is taken
  int64_t max_context_tokens = 0;      // 0 for the model's
  std::optional<int64_t> page_tokens;  // 16, 32 or 64; the device's default where absent
  KvDtype kv_dtype = KvDtype::kBf16;
  int64_t kv_cache_bytes = 0;           // rounded down to whole pages; 0 for what the device has, as kv_budget.h says
  double gpu_memory_utilization = 0.9;  // in (0, 1]: share of a GPU's memory that all of this may take
  EngineConfig engine;
};

// Not started. FAILED_PRECONDITION says why the device cannot be used, INVALID_ARGUMENT names the option, the key or
// the tensor that is wrong; RESOURCE_EXHAUSTED says what could not be held. `metrics` outlives the engine. Takes as
// long as reading the file.
absl::StatusOr<std::unique_ptr<Engine>> CreateEngine(const GgufFile& file, const EngineOptions& options,
                                                     MetricsSink* metrics);

// The same on a device that is open.
absl::StatusOr<std::unique_ptr<Engine>> CreateEngine(Device device, const GgufFile& file, const EngineOptions& options,
                                                     MetricsSink* metrics);

// As these with random weights instead of a file's.
absl::StatusOr<std::unique_ptr<Engine>> CreateEngine(const RandomModelOptions& random, const EngineOptions& options,
                                                     MetricsSink* metrics);
absl::StatusOr<std::unique_ptr<Engine>> CreateEngine(Device device, const RandomModelOptions& random,
                                                     const EngineOptions& options, MetricsSink* metrics);

// As these over the hash model, which reads no file and runs on the CPU.
absl::StatusOr<std::unique_ptr<Engine>> CreateEngine(const HashModelOptions& hash, const EngineOptions& options,
                                                     MetricsSink* metrics);
absl::StatusOr<std::unique_ptr<Engine>> CreateEngine(Device device, const HashModelOptions& hash,
                                                     const EngineOptions& options, MetricsSink* metrics);

}  // namespace farspan
