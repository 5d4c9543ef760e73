// SPDX-License-Identifier: Apache-2.0
#include "engine/base/log.h"

#include <spdlog/sinks/stdout_sinks.h>

#include <memory>

namespace farspan {

spdlog::logger& Log() {
  // Until somebody sets a logger, spdlog's nameless one writes to stdout, which belongs to programs' results.
  static const bool on_stderr = [] {
    if (spdlog::default_logger()->name().empty()) {
      spdlog::set_default_logger(
          std::make_shared<spdlog::logger>("stderr", std::make_shared<spdlog::sinks::stderr_sink_mt>()));
    }
    return true;
  }();
  (void)on_stderr;
  return *spdlog::default_logger_raw();
}

}  // namespace farspan
