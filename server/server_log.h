// SPDX-License-Identifier: Apache-2.0
// The server's log: one JSON object a line, on stderr. Never holds a prompt, an output or a client's own text.
#pragma once

#include "engine/base/clock.h"
#include "server/config.h"
#include "server/json_line.h"
#include "server/log_writer.h"

namespace farspan {

// Sends Log() of the engine and LogLine() through `writer` and silences the logs of gRPC and protobuf, which block and
// print what clients send. Before any gRPC object exists. `writer` lives until StopServerLog().
void StartServerLog(LogWriter* writer, LogLevel level);
// Later lines are dropped.
void StopServerLog();
// Waits until what was logged has been written, or for the deadline.
void FlushServerLog(SteadyTime deadline);

// Adds time and level. Thread-safe; never blocks.
void LogLine(LogLevel level, const JsonLine& line);

// Lines that were dropped since the start.
int64_t NumLogLinesDropped();

}  // namespace farspan
