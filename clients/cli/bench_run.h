// SPDX-License-Identifier: Apache-2.0
// Runs what `farspan bench` was asked for: every prompt length under every policy.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "clients/cli/bench_options.h"
#include "clients/cli/command.h"
#include "clients/loadgen/dataset.h"
#include "clients/loadgen/load_report.h"
#include "clients/loadgen/server_counters.h"

namespace farspan::cli {

// One policy at one prompt length.
struct BenchRow {
  v1::AttentionSpec attention;
  std::string policy;                    // AttentionLabel of it
  std::optional<int64_t> prompt_length;  // of random prompts, shared prefix included
  loadgen::LoadReport report;
  // Of this row's requests, where details were asked for, and the ids under which the server logged them.
  std::vector<loadgen::RequestRecord> records;
  std::vector<std::string> trace_ids;
};

// One sending of all prompts: one row, or one a policy where they were mixed.
struct BenchRun {
  std::vector<BenchRow> rows;
  std::optional<loadgen::ServerCounters> server;
};

struct BenchResult {
  std::string model_name;
  std::vector<BenchRun> runs;
  std::vector<std::string> notes;  // sentences about how to read the figures
  bool interrupted = false;
};

// Fills `result` as far as it comes, on failure and on Ctrl-C too. Requests that fail are part of the result.
Outcome RunBench(const BenchOptions& options, const Connection& connection, Console* console, BenchResult* result);

}  // namespace farspan::cli
