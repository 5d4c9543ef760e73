// SPDX-License-Identifier: Apache-2.0
// The result of a benchmark for people.
#pragma once

#include <string>

#include "clients/cli/bench_run.h"

namespace farspan::cli {

// A row a policy and prompt length, the ledger, and what the server counted, each as its own table of at most `columns`
// where that can be done.
std::string BenchTables(const BenchOptions& options, const BenchResult& result, int columns);

}  // namespace farspan::cli
