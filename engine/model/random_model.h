// SPDX-License-Identifier: Apache-2.0
// A Llama whose weights a generator makes in device memory, with the same bits on every device.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "engine/backend/backend.h"
#include "engine/model/model.h"
#include "engine/model/model_registry.h"
#include "engine/model/random_model_options.h"

namespace farspan {

// Matrices have values of about 0.02 around zero, norms are ones: activations stay finite at any depth. Equal shapes,
// formats and seeds have equal weights and an equal weights_id.
// Fails as LoadModel does.
absl::StatusOr<std::unique_ptr<Model>> CreateRandomModel(const RandomModelOptions& random, Backend* backend,
                                                         const ModelOptions& options);

}  // namespace farspan
