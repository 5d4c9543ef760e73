// SPDX-License-Identifier: Apache-2.0
#include "clients/cli/bench_table.h"

#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "clients/cli/display_text.h"
#include "clients/cli/text_table.h"
#include "clients/cli/units.h"

namespace farspan::cli {
namespace {

using loadgen::Fate;
using loadgen::LoadReport;
using loadgen::SampleSummary;

const SampleSummary& MetricOf(const LoadReport& report, const std::string& name) {
  if (name == "ttft") return report.ttft;
  if (name == "tpot") return report.tpot;
  return name == "itl" ? report.itl : report.e2el;
}

std::string Rate(double value) { return absl::StrFormat("%.*f", value < 10 ? 2 : value < 100 ? 1 : 0, value); }

std::string Milliseconds(const SampleSummary& summary, double value) {
  return summary.count == 0 ? "-" : SecondsText(value / 1e3);
}

std::string LengthText(const BenchRow& row) {
  if (row.prompt_length) return absl::StrCat(*row.prompt_length);
  const int64_t ok = row.report.ledger.Count(Fate::kOk);
  return ok == 0 ? "-" : absl::StrCat("~", row.report.input_tokens / ok);
}

std::vector<std::string> FigureHeader(const BenchOptions& options) {
  std::vector<std::string> header{"policy", "prompt", "ok", "rejected"};
  for (const std::string& metric : options.percentile_metrics) {
    const std::string name = absl::AsciiStrToUpper(metric);
    header.push_back(absl::StrCat(name, " p50"));
    for (const double percent : options.metric_percentiles) header.push_back(absl::StrCat(name, " p", percent));
  }
  for (const char* name : {"req/s", "out tok/s"}) header.emplace_back(name);
  if (options.goodput.any()) header.emplace_back("good/s");
  for (const char* name : {"peak KV", "KV read", "of dense"}) header.emplace_back(name);
  return header;
}

std::vector<std::string> FigureRow(const BenchOptions& options, const BenchRow& row) {
  const LoadReport& report = row.report;
  std::vector<std::string> cells{row.policy, LengthText(row), absl::StrCat(report.ledger.Count(Fate::kOk)),
                                 absl::StrCat(report.ledger.Count(Fate::kRejected))};
  for (const std::string& metric : options.percentile_metrics) {
    const SampleSummary& summary = MetricOf(report, metric);
    cells.push_back(Milliseconds(summary, summary.median));
    for (const auto& [percent, value] : summary.percentiles) cells.push_back(Milliseconds(summary, value));
  }
  cells.push_back(Rate(report.request_throughput));
  cells.push_back(Rate(report.output_throughput));
  if (options.goodput.any()) cells.push_back(Rate(report.request_goodput.value_or(0)));
  cells.push_back(BytesText(report.peak_kv_bytes));
  cells.push_back(BytesText(report.read_bytes));
  cells.push_back(ShareText(report.read_bytes, report.dense_read_bytes));
  return cells;
}

std::vector<std::string> LedgerRow(const BenchRow& row) {
  const loadgen::Ledger& ledger = row.report.ledger;
  std::vector<std::string> cells{row.policy, LengthText(row), absl::StrCat(ledger.sent)};
  for (const Fate fate : {Fate::kOk, Fate::kRejected, Fate::kDeadline, Fate::kCancelled, Fate::kFailed}) {
    cells.push_back(absl::StrCat(ledger.Count(fate)));
  }
  const SampleSummary& reject = row.report.reject;
  const SampleSummary& delay = row.report.send_delay;
  cells.push_back(Milliseconds(reject, reject.percentiles.empty() ? reject.maximum : reject.percentiles[0].second));
  cells.push_back(Milliseconds(delay, delay.maximum));
  cells.push_back(absl::StrCat(row.report.max_concurrent_requests));
  cells.push_back(SecondsText(row.report.duration_seconds));
  return cells;
}

std::string Count(std::optional<double> value) {
  return value ? absl::StrCat(static_cast<int64_t>(std::llround(*value))) : "-";
}

std::string Bytes(std::optional<double> value) {
  return value ? BytesText(static_cast<int64_t>(std::llround(*value))) : "-";
}

std::vector<std::string> ServerRow(const std::string& policy, const std::string& length,
                                   const loadgen::PolicyCounters& counters) {
  const auto reads = counters.read_bytes;
  const auto dense = counters.dense_read_bytes;
  const bool has_share = reads && dense && *dense > 0;
  return {policy,
          length,
          Count(counters.prompt_tokens_computed),
          Count(counters.prompt_tokens_cached),
          Count(counters.generation_tokens),
          Bytes(reads),
          Bytes(dense),
          has_share ? absl::StrFormat("%.*f %%", *reads / *dense < 0.0995 ? 1 : 0, 100 * *reads / *dense) : "-",
          Count(counters.preemptions)};
}

// On its side where that is narrower and the table does not fit.
std::string Fitted(const TextTable& table, int columns) {
  std::string upright = RenderTable(table);
  if (RenderedWidth(upright) <= columns) return upright;
  std::string sideways = RenderTable(Transposed(table));
  return RenderedWidth(sideways) < RenderedWidth(upright) ? sideways : upright;
}

std::string Errors(const BenchResult& result) {
  std::string text;
  for (const BenchRun& run : result.runs) {
    for (const BenchRow& row : run.rows) {
      for (const auto& [error, count] : row.report.ledger.by_error) {
        absl::StrAppend(&text, row.policy, ": ", count, " x ", EscapeControls(error, Controls::kEscapeAll), ": ",
                        EscapeControls(row.report.ledger.example_message.at(error), Controls::kEscapeAll), "\n");
      }
    }
  }
  return text.empty() ? "" : absl::StrCat("\nErrors, with the first message of each:\n", text);
}

std::string ServerTable(const BenchResult& result, int columns) {
  TextTable table{.header = {"policy", "prompt", "computed tokens", "cached tokens", "generated tokens", "KV read",
                             "dense would read", "of dense", "preemptions"}};
  bool scraped = false;
  for (const BenchRun& run : result.runs) {
    if (!run.server) continue;
    scraped = true;
    for (const auto& [policy, counters] : run.server->policies) {
      table.rows.push_back(ServerRow(policy, LengthText(run.rows.front()), counters));
    }
  }
  if (!scraped) return "";
  return absl::StrCat("\nThe server's counters over each run:\n", Fitted(table, columns));
}

}  // namespace

std::string BenchTables(const BenchOptions& options, const BenchResult& result, int columns) {
  TextTable figures{.header = FigureHeader(options)};
  const std::string reject =
      options.metric_percentiles.empty() ? "reject max" : absl::StrCat("reject p", options.metric_percentiles.front());
  TextTable ledger{.header = {"policy", "prompt", "sent", "ok", "rejected", "deadline", "cancelled", "failed", reject,
                              "latest sending", "most at once", "duration"}};
  for (const BenchRun& run : result.runs) {
    for (const BenchRow& row : run.rows) {
      figures.rows.push_back(FigureRow(options, row));
      ledger.rows.push_back(LedgerRow(row));
    }
  }
  if (figures.rows.empty()) return "";
  const char* clock = options.request_rate
                          ? "Latencies count from the time at which a request was due, late sending included.\n\n"
                          : "Latencies count from the sending.\n\n";
  return absl::StrCat(clock, Fitted(figures, columns), "\nsent = ok + rejected + deadline + cancelled + failed:\n",
                      Fitted(ledger, columns), Errors(result), ServerTable(result, columns));
}

}  // namespace farspan::cli
