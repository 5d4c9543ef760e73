// SPDX-License-Identifier: Apache-2.0
#include "clients/cli/bench_json.h"

#include <cerrno>
#include <cstring>
#include <fstream>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace farspan::cli {
namespace {

using loadgen::Fate;
using loadgen::LoadReport;
using loadgen::SampleSummary;

void AddSummary(const std::string& metric, const SampleSummary& summary, Json* json) {
  (*json)[absl::StrCat("mean_", metric, "_ms")] = summary.mean;
  (*json)[absl::StrCat("median_", metric, "_ms")] = summary.median;
  (*json)[absl::StrCat("std_", metric, "_ms")] = summary.deviation;
  for (const auto& [percent, value] : summary.percentiles) {
    (*json)[absl::StrCat("p", percent, "_", metric, "_ms")] = value;
  }
}

void AddLedger(const loadgen::Ledger& ledger, Json* json) {
  Json counts = Json::object();
  counts["sent"] = ledger.sent;
  for (const Fate fate : {Fate::kOk, Fate::kRejected, Fate::kDeadline, Fate::kCancelled, Fate::kFailed}) {
    counts[FateName(fate)] = ledger.Count(fate);
  }
  counts["not_sent"] = ledger.not_sent;
  counts["rejected_with_retry_delay"] = ledger.rejected_with_retry_delay;
  (*json)["ledger"] = std::move(counts);
  Json errors = Json::object();
  for (const auto& [error, count] : ledger.by_error) {
    errors[error] = {{"count", count}, {"message", ledger.example_message.at(error)}};
  }
  (*json)["errors_by_code"] = std::move(errors);
}

void AddDetails(const BenchRow& row, Json* json) {
  for (const char* name : {"input_lens", "cached_lens", "output_lens", "ttfts", "itls", "e2els", "start_times", "fates",
                           "errors", "output_token_ids"}) {
    (*json)[name] = Json::array();
  }
  (*json)["trace_ids"] = row.trace_ids;
  for (const loadgen::RequestRecord& record : row.records) {
    (*json)["input_lens"].push_back(record.input_tokens);
    (*json)["cached_lens"].push_back(record.cached_tokens);
    (*json)["output_lens"].push_back(record.output_tokens);
    (*json)["ttfts"].push_back(record.ttft() ? Json(*record.ttft()) : Json(nullptr));
    (*json)["itls"].push_back(record.gaps_seconds);
    (*json)["e2els"].push_back(record.e2el() ? Json(*record.e2el()) : Json(nullptr));
    (*json)["start_times"].push_back(std::chrono::duration<double>(record.clock_start).count());
    (*json)["fates"].push_back(record.sent ? FateName(record.fate) : "not_sent");
    (*json)["errors"].push_back(record.error);
    (*json)["output_token_ids"].push_back(record.token_ids);
  }
}

void AddTotals(const LoadReport& report, Json* json) {
  (*json)["duration"] = report.duration_seconds;
  (*json)["completed"] = report.ledger.Count(Fate::kOk);
  (*json)["failed"] = report.ledger.sent - report.ledger.Count(Fate::kOk);
  (*json)["total_input_tokens"] = report.input_tokens;
  (*json)["total_output_tokens"] = report.output_tokens;
  (*json)["total_cached_tokens"] = report.cached_tokens;
  (*json)["request_throughput"] = report.request_throughput;
  if (report.request_goodput) (*json)["request_goodput"] = *report.request_goodput;
  (*json)["output_throughput"] = report.output_throughput;
  (*json)["total_token_throughput"] = report.total_token_throughput;
  (*json)["max_concurrent_requests"] = report.max_concurrent_requests;
  (*json)["peak_kv_bytes"] = report.peak_kv_bytes;
  (*json)["kv_read_bytes"] = report.read_bytes;
  (*json)["kv_dense_read_bytes"] = report.dense_read_bytes;
  (*json)["preemptions"] = report.preemptions;
}

Json RateJson(const BenchOptions& options) { return options.request_rate ? Json(*options.request_rate) : Json("inf"); }

Json Number(std::optional<double> value) { return value ? Json(*value) : Json(nullptr); }

// What a file's name may hold.
std::string FilePart(const std::string& text) {
  std::string part;
  for (const char c : text.substr(0, 80)) {
    const bool plain = absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '=';
    part += plain ? c : '_';
  }
  return part;
}

std::string FileName(const BenchOptions& options, const BenchResult& result, const BenchRow& row, absl::Time date) {
  return absl::StrCat(FilePart(options.label), "-", options.request_rate ? absl::StrCat(*options.request_rate) : "inf",
                      "qps", options.max_concurrency > 0 ? absl::StrCat("-concurrency", options.max_concurrency) : "",
                      "-", FilePart(result.model_name), "-", FilePart(row.policy),
                      row.prompt_length ? absl::StrCat("-", *row.prompt_length) : "", "-",
                      absl::FormatTime("%Y%m%d-%H%M%S", date, absl::UTCTimeZone()), ".json");
}

}  // namespace

Json BenchRowJson(const BenchOptions& options, const BenchResult& result, const BenchRow& row, absl::Time date) {
  Json json = Json::object();
  json["date"] = absl::FormatTime("%Y%m%d-%H%M%S", date, absl::UTCTimeZone());
  json["backend"] = "farspan";
  json["label"] = options.label;
  json["model_id"] = result.model_name;
  json["dataset_name"] = options.dataset_name;
  json["num_prompts"] = options.num_prompts;
  json["request_rate"] = RateJson(options);
  json["burstiness"] = options.burstiness;
  json["max_concurrency"] = options.max_concurrency > 0 ? Json(options.max_concurrency) : Json(nullptr);
  json["seed"] = options.seed;
  json["attention"] = row.policy;
  json["mixed"] = options.mixed;
  json["prompt_length"] = row.prompt_length ? Json(*row.prompt_length) : Json(nullptr);
  json["latency_from"] = options.request_rate ? "due" : "sending";
  AddTotals(row.report, &json);
  for (const std::string& metric : options.percentile_metrics) {
    const LoadReport& report = row.report;
    const SampleSummary& summary = metric == "ttft"   ? report.ttft
                                   : metric == "tpot" ? report.tpot
                                   : metric == "itl"  ? report.itl
                                                      : report.e2el;
    AddSummary(metric, summary, &json);
  }
  AddSummary("reject", row.report.reject, &json);
  AddSummary("send_delay", row.report.send_delay, &json);
  json["max_send_delay_ms"] = row.report.send_delay.maximum;
  AddLedger(row.report.ledger, &json);
  if (options.save_detailed) AddDetails(row, &json);
  return json;
}

Json ServerCountersJson(const loadgen::ServerCounters& counters) {
  Json json = Json::object();
  json["policies"] = Json::object();
  for (const auto& [policy, values] : counters.policies) {
    json["policies"][policy] = {{"prompt_tokens_computed", Number(values.prompt_tokens_computed)},
                                {"prompt_tokens_cached", Number(values.prompt_tokens_cached)},
                                {"generation_tokens", Number(values.generation_tokens)},
                                {"kv_read_bytes", Number(values.read_bytes)},
                                {"kv_dense_read_bytes", Number(values.dense_read_bytes)},
                                {"preemptions", Number(values.preemptions)},
                                {"finished", values.finished}};
  }
  json["rejected"] = counters.rejected;
  json["calls"] = counters.calls;
  json["preemptions"] = Number(counters.preemptions);
  json["prefix_cache_queries"] = Number(counters.prefix_cache_queries);
  json["prefix_cache_hits"] = Number(counters.prefix_cache_hits);
  return json;
}

Json BenchJson(const BenchOptions& options, const BenchResult& result, absl::Time date) {
  Json json = Json::object();
  json["runs"] = Json::array();
  for (const BenchRun& run : result.runs) {
    Json entry = Json::object();
    entry["rows"] = Json::array();
    for (const BenchRow& row : run.rows) entry["rows"].push_back(BenchRowJson(options, result, row, date));
    entry["server"] = run.server ? ServerCountersJson(*run.server) : Json(nullptr);
    json["runs"].push_back(std::move(entry));
  }
  json["notes"] = result.notes;
  json["interrupted"] = result.interrupted;
  return json;
}

absl::Status SaveBenchResult(const BenchOptions& options, const BenchResult& result, absl::Time date,
                             std::vector<std::string>* paths) {
  for (const BenchRun& run : result.runs) {
    for (const BenchRow& row : run.rows) {
      const std::string path = absl::StrCat(options.result_dir, "/", FileName(options, result, row, date));
      Json json = BenchRowJson(options, result, row, date);
      json["server"] = run.server ? ServerCountersJson(*run.server) : Json(nullptr);
      errno = 0;
      std::ofstream file(path, std::ios::binary);
      file << JsonLine(json);
      if (!file.flush()) return absl::UnknownError(absl::StrCat("cannot write '", path, "': ", std::strerror(errno)));
      paths->push_back(path);
    }
  }
  return absl::OkStatus();
}

}  // namespace farspan::cli
