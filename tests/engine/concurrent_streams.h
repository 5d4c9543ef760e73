// SPDX-License-Identifier: Apache-2.0
// Many requests at once against each of them alone: mixed policies, too few pages, cancels and deadlines.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/engine_factory.h"

namespace farspan {

// Makes an engine over one model; the metrics sink outlives it.
using EngineMaker = std::function<std::unique_ptr<Engine>(const EngineOptions& options)>;

struct StreamsOptions {
  int num_streams = 64;
  int64_t min_prompt_tokens = 20;
  int64_t max_prompt_tokens = 300;
  int64_t min_output_tokens = 8;
  int64_t max_output_tokens = 40;
  SteadyDuration shortest_deadline{};  // of the streams that have one; up to eight times this
};

struct StreamsResult {
  int num_completed = 0;
  int num_cut = 0;  // by a cancel or a deadline
  int64_t num_preemptions = 0;
};

// Runs the same requests one at a time and then all at once with a quarter of the pages that they need together, a part
// of them cancelled or past a deadline on the way. Fails the test where an answer differs by a token, where one is
// missing or where a page is not returned.
StreamsResult CompareStreamsWithEachAlone(const EngineMaker& make_engine, const StreamsOptions& options);

}  // namespace farspan
