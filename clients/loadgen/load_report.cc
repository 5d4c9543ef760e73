// SPDX-License-Identifier: Apache-2.0
#include "clients/loadgen/load_report.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace farspan::loadgen {
namespace {

constexpr double kMillisecondsPerSecond = 1e3;

double Seconds(RunTime time) { return std::chrono::duration<double>(time).count(); }

int64_t MaxConcurrent(const std::vector<const RequestRecord*>& records) {
  std::vector<std::pair<RunTime, int>> changes;
  for (const RequestRecord* record : records) {
    if (!record->sent) continue;
    changes.emplace_back(record->sent_at, 1);
    changes.emplace_back(record->ended_at, -1);
  }
  std::sort(changes.begin(), changes.end());
  int64_t running = 0;
  int64_t most = 0;
  for (const auto& [time, change] : changes) most = std::max(most, running += change);
  return most;
}

void CountInLedger(const RequestRecord& record, Ledger* ledger) {
  if (!record.sent) {
    ++ledger->not_sent;
    return;
  }
  ++ledger->sent;
  ++ledger->by_fate[record.fate];
  if (record.fate == Fate::kRejected && record.has_retry_delay) ++ledger->rejected_with_retry_delay;
  if (record.error.empty()) return;
  ++ledger->by_error[record.error];
  ledger->example_message.emplace(record.error, record.message);
}

// Measured values in milliseconds, not yet sorted.
struct Latencies {
  std::vector<double> ttft, tpot, itl, e2el, reject, send_delay;

  void Add(const RequestRecord& record) {
    const auto append = [](std::optional<double> seconds, std::vector<double>* values) {
      if (seconds) values->push_back(*seconds * kMillisecondsPerSecond);
    };
    if (record.sent) append(Seconds(record.sent_at - record.clock_start), &send_delay);
    if (record.sent && record.fate == Fate::kRejected) append(Seconds(record.ended_at - record.clock_start), &reject);
    if (!record.sent || record.fate != Fate::kOk) return;
    append(record.ttft(), &ttft);
    append(record.tpot(), &tpot);
    append(record.e2el(), &e2el);
    for (const float gap : record.gaps_seconds) append(gap, &itl);
  }
};

void AddTotals(const RequestRecord& record, LoadReport* report) {
  report->input_tokens += record.input_tokens;
  report->cached_tokens += record.cached_tokens;
  report->output_tokens += record.output_tokens;
  report->read_bytes += record.read_bytes;
  report->dense_read_bytes += record.dense_read_bytes;
  report->preemptions += record.preemptions;
  report->peak_kv_bytes = std::max(report->peak_kv_bytes, record.peak_kv_bytes);
}

}  // namespace

bool ServiceLevel::Holds(const RequestRecord& record) const {
  if (!record.sent || record.fate != Fate::kOk) return false;
  const auto within = [](std::optional<double> value, std::optional<double> bound) {
    return !bound || !value || *value <= *bound;
  };
  return within(record.ttft(), ttft) && within(record.tpot(), tpot) && within(record.e2el(), e2el);
}

absl::Status ParseServiceLevel(const std::string& text, ServiceLevel* level) {
  const auto malformed = [&] {
    return absl::InvalidArgumentError(
        absl::StrCat("must be ttft:MS, tpot:MS or e2el:MS with a number of milliseconds above 0, got '", text, "'"));
  };
  const size_t colon = text.find(':');
  double milliseconds = 0;
  if (colon == std::string::npos || !absl::SimpleAtod(text.substr(colon + 1), &milliseconds) ||
      !(milliseconds > 0 && milliseconds < 1e12)) {
    return malformed();
  }
  const std::string name = text.substr(0, colon);
  std::optional<double>* const bound = name == "ttft"   ? &level->ttft
                                       : name == "tpot" ? &level->tpot
                                       : name == "e2el" ? &level->e2el
                                                        : nullptr;
  if (bound == nullptr) return malformed();
  *bound = milliseconds / kMillisecondsPerSecond;
  return absl::OkStatus();
}

int64_t Ledger::Count(Fate fate) const {
  const auto found = by_fate.find(fate);
  return found == by_fate.end() ? 0 : found->second;
}

RunTime RunDuration(const std::vector<RequestRecord>& records) {
  RunTime end{0};
  for (const RequestRecord& record : records) end = std::max(end, record.ended_at);
  return end;
}

LoadReport MakeReport(const std::vector<const RequestRecord*>& records, RunTime duration,
                      const ReportOptions& options) {
  LoadReport report{.duration_seconds = Seconds(duration)};
  Latencies latencies;
  int64_t good = 0;
  for (const RequestRecord* record : records) {
    CountInLedger(*record, &report.ledger);
    latencies.Add(*record);
    if (record->sent && record->fate == Fate::kOk) AddTotals(*record, &report);
    good += options.service_level.Holds(*record) ? 1 : 0;
  }
  const auto rate = [&](int64_t count) {
    return report.duration_seconds > 0 ? static_cast<double>(count) / report.duration_seconds : 0;
  };
  report.request_throughput = rate(report.ledger.Count(Fate::kOk));
  report.output_throughput = rate(report.output_tokens);
  report.total_token_throughput = rate(report.input_tokens + report.output_tokens);
  if (options.service_level.any()) report.request_goodput = rate(good);
  report.max_concurrent_requests = MaxConcurrent(records);
  report.ttft = Summarize(std::move(latencies.ttft), options.percents);
  report.tpot = Summarize(std::move(latencies.tpot), options.percents);
  report.itl = Summarize(std::move(latencies.itl), options.percents);
  report.e2el = Summarize(std::move(latencies.e2el), options.percents);
  report.reject = Summarize(std::move(latencies.reject), options.percents);
  report.send_delay = Summarize(std::move(latencies.send_delay), options.percents);
  return report;
}

}  // namespace farspan::loadgen
