// SPDX-License-Identifier: Apache-2.0
// The process: signals, loading, serving, draining, exit code.
#pragma once

#include "server/config.h"
#include "server/exit_codes.h"

namespace farspan {

// Serves until SIGTERM or SIGINT; a second one cuts. Writes the log to stderr. The calling thread must be the only one
// of the process.
ExitCode RunServer(const CommandLine& line);

}  // namespace farspan
