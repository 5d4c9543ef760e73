// SPDX-License-Identifier: Apache-2.0
// deploy/metrics.md, written from the table.
#pragma once

#include <string>

namespace farspan {

std::string MetricPage();

}  // namespace farspan
