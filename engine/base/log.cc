// SPDX-License-Identifier: Apache-2.0
#include "engine/base/log.h"

namespace farspan {

spdlog::logger& Log() { return *spdlog::default_logger_raw(); }

}  // namespace farspan
