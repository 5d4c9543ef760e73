// SPDX-License-Identifier: Apache-2.0
// What the records of a run add up to, under vLLM's definitions.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "clients/loadgen/request_record.h"
#include "clients/loadgen/sample_summary.h"

namespace farspan::loadgen {

// Bounds that a good request keeps, in seconds.
struct ServiceLevel {
  std::optional<double> ttft;
  std::optional<double> tpot;
  std::optional<double> e2el;

  bool any() const { return ttft || tpot || e2el; }
  // OK and within every bound; a request of one token has no TPOT and keeps its bound.
  bool Holds(const RequestRecord& record) const;
};

// "ttft:200", milliseconds, into the bound of that name.
absl::Status ParseServiceLevel(const std::string& text, ServiceLevel* level);

// sent = ok + rejected + deadline + cancelled + failed.
struct Ledger {
  int64_t sent = 0;
  int64_t not_sent = 0;  // stopped before their time
  std::map<Fate, int64_t> by_fate;
  std::map<std::string, int64_t> by_error;
  std::map<std::string, std::string> example_message;  // the first one of each error
  int64_t rejected_with_retry_delay = 0;

  int64_t Count(Fate fate) const;
};

struct LoadReport {
  Ledger ledger;
  double duration_seconds = 0;
  // Over OK requests.
  int64_t input_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t output_tokens = 0;
  int64_t read_bytes = 0;
  int64_t dense_read_bytes = 0;
  int64_t peak_kv_bytes = 0;  // of the request that held most
  int64_t preemptions = 0;
  double request_throughput = 0;  // OK requests a second
  double output_throughput = 0;
  double total_token_throughput = 0;
  std::optional<double> request_goodput;  // where a service level was given
  int64_t max_concurrent_requests = 0;
  // Milliseconds; of OK requests.
  SampleSummary ttft, tpot, itl, e2el;
  SampleSummary reject;      // to the refusal, of rejected requests
  SampleSummary send_delay;  // from due to sent: what this client or --max-concurrency added
};

struct ReportOptions {
  std::vector<double> percents;
  ServiceLevel service_level;
};

// `duration` of the whole run; `records` may be a part of it.
LoadReport MakeReport(const std::vector<const RequestRecord*>& records, RunTime duration, const ReportOptions& options);

// From the first arrival to the last end.
RunTime RunDuration(const std::vector<RequestRecord>& records);

}  // namespace farspan::loadgen
