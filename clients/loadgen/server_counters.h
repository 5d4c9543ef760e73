// SPDX-License-Identifier: Apache-2.0
// What a server's own counters say about a run: the difference of two scrapes, by attention policy.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "clients/scrape/metrics_snapshot.h"

namespace farspan::loadgen {

// Absent where the server does not export the family.
struct PolicyCounters {
  std::optional<double> prompt_tokens_computed;
  std::optional<double> prompt_tokens_cached;
  std::optional<double> generation_tokens;
  std::optional<double> read_bytes;
  std::optional<double> dense_read_bytes;
  std::optional<double> preemptions;
  std::map<std::string, double> finished;  // by finish reason
};

struct ServerCounters {
  std::map<std::string, PolicyCounters> policies;  // those that did something
  std::map<std::string, double> rejected;          // by reason, those above 0
  std::map<std::string, double> calls;             // of Generate by status code, those above 0
  std::optional<double> preemptions;               // over all policies
  std::optional<double> prefix_cache_queries;      // tokens looked up and tokens found
  std::optional<double> prefix_cache_hits;
};

// A counter that fell counts from 0: the server was started anew.
ServerCounters CountersBetween(const MetricsSnapshot& before, const MetricsSnapshot& after);

}  // namespace farspan::loadgen
