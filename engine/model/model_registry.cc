// SPDX-License-Identifier: Apache-2.0
#include "engine/model/model_registry.h"

#include <array>
#include <chrono>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/status_macros.h"
#include "engine/model/gguf_cursor.h"
#include "engine/model/llama.h"
#include "engine/model/random_model.h"

namespace farspan {
namespace {

using Factory = absl::StatusOr<std::unique_ptr<Model>> (*)(const GgufFile&, Backend*, const ModelOptions&);

struct Architecture {
  const char* name;  // general.architecture
  Factory create;
};

constexpr std::array<Architecture, 1> kArchitectures = {{
    {"llama", &CreateLlama},
}};

absl::Status CheckOptions(const ModelOptions& options) {
  constexpr int64_t kMaxBatchRows = 1 << 16;
  if (options.max_batch_rows < 1 || options.max_batch_rows > kMaxBatchRows) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_batch_rows: expected 1 to ", kMaxBatchRows, ", got ", options.max_batch_rows));
  }
  if (options.page_tokens != 16 && options.page_tokens != 32 && options.page_tokens != 64) {
    return absl::InvalidArgumentError(absl::StrCat("page_tokens: expected 16, 32 or 64, got ", options.page_tokens));
  }
  if (options.max_context_tokens < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_context_tokens: expected at least 0, got ", options.max_context_tokens));
  }
  return absl::OkStatus();
}

absl::StatusOr<Factory> FindArchitecture(const GgufMetadata& metadata) {
  constexpr std::string_view kKey = "general.architecture";
  FARSPAN_ASSIGN_OR_RETURN(const std::string_view name, metadata.GetString(kKey));
  std::string known;
  for (const Architecture& architecture : kArchitectures) {
    if (name == architecture.name) return architecture.create;
    absl::StrAppend(&known, known.empty() ? "" : ", ", architecture.name);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("key general.architecture: expected one of {", known, "}, got ", QuoteFileText(name)));
}

// One part of a model that was split over files holds a part of the tensors.
absl::Status RefuseShard(const GgufMetadata& metadata) {
  constexpr uint64_t kOneFile = 1;
  return metadata.FindUint("split.count", 0, kOneFile).status();
}

void LogLoaded(const ModelInfo& info, SteadyTime begin) {
  const std::chrono::duration<double> elapsed = Clock::Real()->Now() - begin;
  Log().info("model loaded: architecture={} parameters={} weight_bytes={} weights_id={} seconds={:.3f}",
             info.architecture, info.num_parameters, info.weight_bytes, info.weights_id, elapsed.count());
}

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> LoadModel(const GgufFile& file, Backend* backend, const ModelOptions& options) {
  const SteadyTime begin = Clock::Real()->Now();
  FARSPAN_RETURN_IF_ERROR(CheckOptions(options));
  FARSPAN_RETURN_IF_ERROR(RefuseShard(file.metadata()));
  FARSPAN_ASSIGN_OR_RETURN(const Factory create, FindArchitecture(file.metadata()));
  FARSPAN_ASSIGN_OR_RETURN(std::unique_ptr<Model> model, create(file, backend, options));
  LogLoaded(model->info(), begin);
  return model;
}

absl::StatusOr<std::unique_ptr<Model>> LoadModel(const RandomModelOptions& random, Backend* backend,
                                                 const ModelOptions& options) {
  const SteadyTime begin = Clock::Real()->Now();
  FARSPAN_RETURN_IF_ERROR(CheckOptions(options));
  FARSPAN_ASSIGN_OR_RETURN(std::unique_ptr<Model> model, CreateRandomModel(random, backend, options));
  LogLoaded(model->info(), begin);
  return model;
}

absl::StatusOr<std::unique_ptr<Model>> LoadModel(const std::string& path, Backend* backend,
                                                 const ModelOptions& options) {
  FARSPAN_ASSIGN_OR_RETURN(const GgufFile file, GgufFile::Open(path));
  absl::StatusOr<std::unique_ptr<Model>> model = LoadModel(file, backend, options);
  if (model.ok()) return model;
  return absl::Status(model.status().code(), absl::StrCat(path, ": ", model.status().message()));
}

}  // namespace farspan
