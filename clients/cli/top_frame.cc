// SPDX-License-Identifier: Apache-2.0
#include "clients/cli/top_frame.h"

#include <cmath>
#include <optional>
#include <set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "clients/cli/display_text.h"
#include "clients/cli/text_table.h"
#include "clients/cli/units.h"

namespace farspan::cli {
namespace {

using Value = std::optional<double>;

constexpr const char* kPolicy = "attention_policy";
constexpr double kLargestShown = 1e18;
constexpr int kBarCells = 30;

bool Shown(Value value) { return value && std::isfinite(*value) && std::abs(*value) < kLargestShown; }

std::string Count(Value value) { return Shown(value) ? absl::StrCat(std::llround(*value)) : "-"; }

std::string Number(Value value) {
  if (!Shown(value)) return "-";
  return absl::StrFormat("%.*f", std::abs(*value) < 10 ? 1 : 0, *value);
}

std::string Bytes(Value value) { return Shown(value) ? BytesText(std::llround(*value)) : "-"; }

std::string BytesRate(Value value) { return Shown(value) ? absl::StrCat(Bytes(value), "/s") : "-"; }

std::string Seconds(Value value) { return Shown(value) ? SecondsText(*value) : "-"; }

Value Ratio(Value part, Value whole) {
  if (!part || !whole || !(*whole > 0)) return std::nullopt;
  return *part / *whole;
}

std::string Percent(Value ratio) {
  if (!Shown(ratio)) return "-";
  return absl::StrFormat("%.*f %%", *ratio < 0.0995 && *ratio > 0 ? 1 : 0, 100 * *ratio);
}

// What the two scrapes say of one policy, or of the whole server without labels.
class Readings {
 public:
  Readings(const TopView& view, MetricLabels labels) : view_(view), labels_(std::move(labels)) {}

  Value Gauge(const char* name, const MetricLabels& more = {}) const { return view_.later.Sum(name, With(more)); }
  Value Growth(const std::string& name, const MetricLabels& more = {}) const {
    const Value now = view_.later.Sum(name, With(more));
    if (!now) return std::nullopt;
    const double before = view_.earlier.Sum(name, With(more)).value_or(0);
    return *now >= before ? *now - before : *now;
  }
  Value Rate(const char* name, const MetricLabels& more = {}) const {
    const Value growth = Growth(name, more);
    if (!growth || !(view_.seconds > 0)) return std::nullopt;
    return *growth / view_.seconds;
  }
  // Of a histogram's observations between the scrapes.
  Value Mean(const char* name) const {
    return Ratio(Growth(absl::StrCat(name, "_sum")), Growth(absl::StrCat(name, "_count")));
  }

 private:
  MetricLabels With(const MetricLabels& more) const {
    MetricLabels all = labels_;
    all.insert(more.begin(), more.end());
    return all;
  }

  const TopView& view_;
  const MetricLabels labels_;
};

std::string PagesLine(const Readings& server) {
  const Value free = server.Gauge("farspan_kv_pages", {{"state", "free"}});
  const Value used = server.Gauge("farspan_kv_pages", {{"state", "used"}});
  const Value cached = server.Gauge("farspan_kv_pages", {{"state", "cached"}});
  std::string line =
      absl::StrCat("KV pages   ", Count(used), " used, ", Count(cached), " cached, ", Count(free), " free");
  const double total = free.value_or(0) + used.value_or(0) + cached.value_or(0);
  if (!Shown(total) || !(total > 0)) return line + "\n";
  const auto cells = [&](Value part) {
    return static_cast<size_t>(std::llround(kBarCells * part.value_or(0) / total));
  };
  std::string bar = absl::StrCat(std::string(cells(used), '#'), std::string(cells(cached), '+'));
  bar.resize(kBarCells, '.');
  return absl::StrCat(line, "  [", bar, "]\n");
}

std::string ServerLines(const Readings& server) {
  const Value hits = server.Growth("farspan_prefix_cache_hit_tokens_total");
  const Value queried = server.Growth("farspan_prefix_cache_queried_tokens_total");
  return absl::StrCat(
      "requests   ", Count(server.Gauge("farspan_requests_running")), " running, ",
      Count(server.Gauge("farspan_requests_waiting")), " waiting, ",
      Number(server.Rate("farspan_requests_finished_total")), " ended/s, ",
      Number(server.Rate("farspan_requests_rejected_total")), " refused/s\n", "tokens/s   ",
      Number(server.Rate("farspan_prompt_tokens_total", {{"source", "computed"}})), " prompt computed, ",
      Number(server.Rate("farspan_prompt_tokens_total", {{"source", "cached"}})), " prompt cached, ",
      Number(server.Rate("farspan_generation_tokens_total")), " generated\n", "steps      ",
      Number(server.Rate("farspan_batch_requests_count")), " /s, ", Number(server.Mean("farspan_batch_requests")),
      " requests and ", Number(server.Mean("farspan_batch_distinct_policies")), " policies a step, ",
      Seconds(server.Mean("farspan_engine_step_seconds")), " each\n", "queue      ",
      Seconds(server.Mean("farspan_request_queue_seconds")), " wait of a request, ",
      Number(server.Rate("farspan_preemptions_total")), " preemptions/s, ", Percent(Ratio(hits, queried)),
      " of prompt tokens found in the prefix cache\n", PagesLine(server));
}

std::vector<std::string> PolicyRow(const std::string& policy, const Readings& readings) {
  const Value reads = readings.Rate("farspan_kv_read_bytes_total");
  const Value dense = readings.Rate("farspan_kv_read_bytes_dense_total");
  return {EscapeControls(policy, Controls::kEscapeAll),
          Count(readings.Gauge("farspan_requests_running")),
          Count(readings.Gauge("farspan_requests_waiting")),
          Number(readings.Rate("farspan_generation_tokens_total")),
          Seconds(readings.Mean("farspan_time_to_first_token_seconds")),
          Seconds(readings.Mean("farspan_inter_token_latency_seconds")),
          Seconds(readings.Mean("farspan_request_queue_seconds")),
          Bytes(readings.Gauge("farspan_kv_resident_bytes")),
          Percent(Ratio(readings.Gauge("farspan_kv_resident_tokens"), readings.Gauge("farspan_kv_logical_tokens"))),
          BytesRate(reads),
          Percent(Ratio(reads, dense)),
          Number(readings.Rate("farspan_preemptions_total")),
          Percent(Ratio(readings.Growth("farspan_prefix_cache_hit_tokens_total"),
                        readings.Growth("farspan_prefix_cache_queried_tokens_total")))};
}

}  // namespace

std::string TopFrame(const TopView& view, int columns) {
  TextTable table{.header = {"policy", "running", "waiting", "tok/s", "TTFT", "ITL", "queue", "KV held", "of tokens",
                             "KV read", "of dense", "preempt/s", "prefix hits"}};
  std::set<std::string> policies;
  for (const char* family : {"farspan_policy_info", "farspan_requests_running", "farspan_requests_finished_total"}) {
    for (const auto& [policy, value] : view.later.SumBy(family, kPolicy)) policies.insert(policy);
  }
  for (const std::string& policy : policies) {
    table.rows.push_back(PolicyRow(policy, Readings(view, {{kPolicy, policy}})));
  }
  std::string frame = ServerLines(Readings(view, {}));
  if (table.rows.empty()) return absl::StrCat(frame, "\nno policies in the metrics: is this a Farspan server?\n");
  std::string upright = RenderTable(table);
  const bool turn = RenderedWidth(upright) > columns;
  return absl::StrCat(frame, "\n", turn ? RenderTable(Transposed(table)) : upright);
}

}  // namespace farspan::cli
