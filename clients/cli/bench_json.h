// SPDX-License-Identifier: Apache-2.0
// The result of a benchmark for programs, under vLLM's key names where they exist.
#pragma once

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "clients/cli/bench_run.h"
#include "clients/cli/json.h"

namespace farspan::cli {

// One row; latencies in milliseconds as "mean_ttft_ms", "p99_ttft_ms".
Json BenchRowJson(const BenchOptions& options, const BenchResult& result, const BenchRow& row, absl::Time date);

// What a server counted over a run.
Json ServerCountersJson(const loadgen::ServerCounters& counters);

// {"runs": [{"rows": [...], "server": {...}}], "notes": [...]}
Json BenchJson(const BenchOptions& options, const BenchResult& result, absl::Time date);

// Writes one file a row into --result-dir: LABEL-RATEqps[-concurrencyN]-MODEL-POLICY[-LENGTH]-DATE.json. Appends their
// paths; UNKNOWN where one cannot be written.
absl::Status SaveBenchResult(const BenchOptions& options, const BenchResult& result, absl::Time date,
                             std::vector<std::string>* paths);

}  // namespace farspan::cli
