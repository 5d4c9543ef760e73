// SPDX-License-Identifier: Apache-2.0
// Where a server's metrics are and what they say now.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "clients/cli/flag_set.h"
#include "clients/scrape/metrics_snapshot.h"

namespace farspan::cli {

// A flag of this name, with `doc` before what its default is.
void AddMetricsUrlFlag(const std::string& doc, std::optional<std::string>* url, FlagSet* flags);

// The default metrics port on the host of a gRPC target; empty for one that has no host.
std::string DefaultMetricsUrl(const std::string& target);

// One sentence on failure, the URL in it. Blocks for five seconds at most.
absl::StatusOr<MetricsSnapshot> ScrapeMetrics(const std::string& url);

}  // namespace farspan::cli
