// SPDX-License-Identifier: Apache-2.0
// One picture of a server from two scrapes of its metrics.
#pragma once

#include <string>

#include "clients/scrape/metrics_snapshot.h"

namespace farspan::cli {

struct TopView {
  const MetricsSnapshot& earlier;
  const MetricsSnapshot& later;
  double seconds = 0;  // between the two
};

// Lines of text, each ended. Gauges are those of the later scrape, rates and means those between the two; "-" stands
// for what the server does not export and for means of nothing. A counter that fell counts from 0.
std::string TopFrame(const TopView& view, int columns);

}  // namespace farspan::cli
