// SPDX-License-Identifier: Apache-2.0
// From a model file, or a shape with random weights, to a Model: the explicit list of architectures.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/backend/backend.h"
#include "engine/base/model_shape.h"
#include "engine/model/gguf.h"
#include "engine/model/model.h"
#include "engine/model/random_model_options.h"

namespace farspan {

struct ModelOptions {
  int64_t max_batch_rows = 512;    // rows of one Forward; sizes the activations
  int64_t max_sequences = 0;       // whose rows they are; 0 for as many as rows
  int64_t max_context_tokens = 0;  // 0 for the file's; more than the file's is refused
  int64_t page_tokens = 32;
  KvDtype kv_dtype = KvDtype::kBf16;
};

// Reads every weight; nothing is kept of `file` afterwards. `backend` outlives the model. A file that is not right is
// INVALID_ARGUMENT naming key or tensor, an option that is not is INVALID_ARGUMENT naming it, too little memory is
// RESOURCE_EXHAUSTED.
absl::StatusOr<std::unique_ptr<Model>> LoadModel(const GgufFile& file, Backend* backend, const ModelOptions& options);

// The same for weights that are made, not read.
absl::StatusOr<std::unique_ptr<Model>> LoadModel(const RandomModelOptions& random, Backend* backend,
                                                 const ModelOptions& options);

// As the first from a path, which every refusal names.
absl::StatusOr<std::unique_ptr<Model>> LoadModel(const std::string& path, Backend* backend,
                                                 const ModelOptions& options);

}  // namespace farspan
