// SPDX-License-Identifier: Apache-2.0
// The engine's log: structured events that never block and never carry a prompt, an output or a client's text.
#pragma once

#include <spdlog/spdlog.h>

namespace farspan {

// Replaced at start by the server with its bounded, dropping JSON logger; writes to stderr until then. Thread-safe.
spdlog::logger& Log();

}  // namespace farspan
