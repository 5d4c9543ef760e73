// SPDX-License-Identifier: Apache-2.0
// From the settings to a model that can be served: file, tokenizer, chat template, engine.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/config.h"
#include "server/exit_codes.h"
#include "server/served_model.h"

namespace farspan {

struct LoadError {
  ExitCode exit_code = ExitCode::kInternal;
  std::string sentence;
};

// The engine is not started. Takes as long as reading the file. `metrics` outlives the model. On failure the result is
// null and `error` says why and with which code the process should end.
std::unique_ptr<ServedModel> LoadServedModel(const ServerConfig& config, MetricsSink* metrics, LoadError* error);

// `values` with what "auto" has come to for the loaded model.
std::vector<ConfigValue> EffectiveValues(std::vector<ConfigValue> values, const ServedModel& model);

}  // namespace farspan
