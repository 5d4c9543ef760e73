// SPDX-License-Identifier: Apache-2.0
#include "clients/cli/bench_run.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "clients/cli/attention_flag.h"
#include "clients/cli/metrics_address.h"
#include "clients/cli/progress_line.h"
#include "clients/loadgen/arrivals.h"
#include "clients/loadgen/load_run.h"

namespace farspan::cli {
namespace {

// Prompts of warm-ups lie beyond those of any run.
constexpr size_t kFirstWarmupIndex = size_t{1} << 32;

// Which requests are cancelled and which get a deadline, drawn apart from prompts and arrivals.
struct Disturbance {
  std::vector<std::optional<loadgen::RunTime>> cancel_after;
  std::vector<bool> has_deadline;
};

loadgen::RunTime Milliseconds(double ms) { return loadgen::RunTime(static_cast<int64_t>(ms * 1e6)); }

Disturbance DrawDisturbance(const BenchOptions& options) {
  Disturbance drawn;
  std::mt19937_64 bits(static_cast<uint64_t>(options.seed) ^ 0x9e3779b97f4a7c15u);
  std::uniform_real_distribution<double> share(0, 1);
  for (int64_t i = 0; i < options.num_prompts; ++i) {
    const bool cancelled = share(bits) < options.cancel_fraction;
    const double cancel_ms = share(bits) * options.cancel_within_ms;
    drawn.cancel_after.push_back(cancelled ? std::optional(Milliseconds(cancel_ms)) : std::nullopt);
    drawn.has_deadline.push_back(options.deadline_ms > 0 && share(bits) < options.deadline_fraction);
  }
  return drawn;
}

class Bench {
 public:
  Bench(const BenchOptions& options, const Connection& connection, Console* console, BenchResult* result)
      : options_(options), connection_(connection), console_(console), result_(*result), action_(&console->interrupt) {
    for (const v1::AttentionSpec& spec : options.attention) policies_.push_back(spec);
  }

  Outcome Run() {
    if (Outcome outcome = Prepare(); outcome.code != ExitCode::kOk) return outcome;
    const std::vector<int64_t> lengths =
        options_.prompt_lengths.empty() ? std::vector<int64_t>{options_.random_input_len} : options_.prompt_lengths;
    num_runs_ = lengths.size() * (options_.mixed ? 1 : policies_.size());
    for (const int64_t length : lengths) {
      absl::StatusOr<std::unique_ptr<loadgen::Dataset>> dataset = MakeDataset(length);
      if (!dataset.ok()) return InputFailure(dataset.status());
      NoteRepetition(**dataset);
      Outcome outcome = RunLength(**dataset, length);
      if (outcome.code != ExitCode::kOk) return outcome;
    }
    NotePrefixCache();
    return Verdict();
  }

 private:
  Outcome Prepare() {
    for (int64_t i = 0; i < options_.connections; ++i) {
      absl::StatusOr<Client> client =
          Client::Connect(connection_.Target(*console_), {.own_connection = options_.connections > 1});
      if (!client.ok()) return UsageFailure(client.status());
      clients_.push_back(*std::move(client));
    }
    absl::StatusOr<v1::GetServerInfoResponse> info = clients_.front().GetServerInfo(connection_.Options(action_));
    if (!info.ok()) return Failure(info.status());
    result_.model_name = info->model().name();
    vocabulary_size_ = info->model().vocabulary_size();
    if (policies_.empty()) policies_.push_back(info->default_attention());
    return ChooseMetrics();
  }

  // A URL that was given must work; a guessed one may not.
  Outcome ChooseMetrics() {
    if (!options_.metrics) return {};
    metrics_url_ = options_.metrics_url.value_or(DefaultMetricsUrl(connection_.Target(*console_)));
    if (metrics_url_.empty()) return {};
    const absl::Status status = ScrapeMetrics(metrics_url_).status();
    if (status.ok()) return {};
    if (options_.metrics_url) return {ExitCode::kUnavailable, std::string(status.message())};
    Note(absl::StrCat(status.message(), "; --metrics-url names another address"));
    metrics_url_.clear();
    return {};
  }

  absl::StatusOr<std::unique_ptr<loadgen::Dataset>> MakeDataset(int64_t length) const {
    if (options_.dataset_name == "custom") {
      return loadgen::ReadCustomDataset(options_.dataset_path, options_.custom_output_len);
    }
    return loadgen::NewRandomDataset({.vocabulary_size = std::max<int64_t>(1, vocabulary_size_),
                                      .input_tokens = length,
                                      .output_tokens = options_.random_output_len,
                                      .range_ratio = options_.random_range_ratio,
                                      .prefix_tokens = options_.random_prefix_len,
                                      .seed = static_cast<uint64_t>(options_.seed)});
  }

  Outcome RunLength(const loadgen::Dataset& dataset, int64_t length) {
    if (options_.mixed) return RunOnce(dataset, length, policies_);
    for (const v1::AttentionSpec& policy : policies_) {
      Outcome outcome = RunOnce(dataset, length, {policy});
      if (outcome.code != ExitCode::kOk) return outcome;
    }
    return {};
  }

  loadgen::LoadCall MakeCall(const loadgen::Dataset& dataset, size_t index, const v1::AttentionSpec& policy) const {
    loadgen::LoadPrompt prompt = dataset.At(index);
    loadgen::LoadCall call{.request = options_.request, .options = connection_.Options(action_)};
    v1::GenerationSpec* const spec = call.request.mutable_spec();
    *spec->mutable_prompt() = std::move(prompt.prompt);
    spec->mutable_stopping()->set_max_tokens(prompt.output_tokens);
    spec->mutable_sampling()->set_seed(options_.seed + static_cast<int64_t>(index % kFirstWarmupIndex));
    *call.request.mutable_attention() = policy;
    call.options.stop = {};  // a stop goes through the run, which cancels its calls itself
    if (options_.save_detailed) {
      call.options.traceparent = absl::StrFormat("00-%s-%016x-01", TraceId(index), index + 1);
    }
    return call;
  }

  // Unique among the requests of the runs of this and, by its time, of other programs.
  std::string TraceId(size_t index) const {
    return absl::StrFormat("%016x%08x%08x", trace_time_, result_.runs.size(), index);
  }

  void WarmUp(const loadgen::Dataset& dataset, const std::vector<v1::AttentionSpec>& policies) {
    loadgen::LoadPlan plan;
    plan.pacing.due.resize(static_cast<size_t>(options_.num_warmups));
    plan.pacing.max_concurrency = 1;
    plan.clock_from_due = false;
    plan.make_call = [&](size_t index) {
      return MakeCall(dataset, kFirstWarmupIndex + index, policies[index % policies.size()]);
    };
    loadgen::RunLoad(clients_, plan, action_.token(), [](const loadgen::LoadProgress&) {});
  }

  loadgen::LoadPlan MakePlan(const loadgen::Dataset& dataset, const std::vector<v1::AttentionSpec>& policies) const {
    Disturbance disturbance = DrawDisturbance(options_);
    loadgen::LoadPlan plan;
    plan.pacing.due = loadgen::ArrivalOffsets({.num_requests = static_cast<size_t>(options_.num_prompts),
                                               .request_rate = options_.request_rate,
                                               .burstiness = options_.burstiness,
                                               .seed = static_cast<uint64_t>(options_.seed)});
    plan.pacing.max_concurrency = static_cast<size_t>(options_.max_concurrency);
    plan.pacing.cancel_after = std::move(disturbance.cancel_after);
    plan.clock_from_due = options_.request_rate.has_value();
    plan.keep_tokens = options_.save_detailed;
    plan.make_call = [this, &dataset, policies, has_deadline = std::move(disturbance.has_deadline)](size_t index) {
      loadgen::LoadCall call = MakeCall(dataset, index, policies[index % policies.size()]);
      if (has_deadline[index]) call.options.timeout = Milliseconds(options_.deadline_ms);
      return call;
    };
    return plan;
  }

  Outcome RunOnce(const loadgen::Dataset& dataset, int64_t length, const std::vector<v1::AttentionSpec>& policies) {
    const loadgen::LoadPlan plan = MakePlan(dataset, policies);
    if (options_.num_warmups > 0) WarmUp(dataset, policies);
    const absl::StatusOr<MetricsSnapshot> before = ScrapeIfWanted();
    ProgressLine line(console_, !options_.quiet);
    const std::string name = RunName(policies, length);
    const auto show = [&](const loadgen::LoadProgress& progress) {
      line.Show(absl::StrCat(name, ": ", progress.num_sent, " of ", options_.num_prompts, " sent, ",
                             progress.num_running, " running, ", progress.num_ended, " ended"));
    };
    const std::vector<loadgen::RequestRecord> records = loadgen::RunLoad(clients_, plan, action_.token(), show);
    line.Clear();
    const absl::StatusOr<MetricsSnapshot> after = ScrapeIfWanted();
    AddRun(policies, length, records);
    if (before.ok() && after.ok()) result_.runs.back().server = loadgen::CountersBetween(*before, *after);
    if (!action_.interrupted()) return {};
    result_.interrupted = true;
    return {ExitCode::kInterrupted, "interrupted; the figures cover what was sent until then"};
  }

  absl::StatusOr<MetricsSnapshot> ScrapeIfWanted() const {
    if (metrics_url_.empty()) return absl::UnavailableError("not wanted");
    return ScrapeMetrics(metrics_url_);
  }

  std::string RunName(const std::vector<v1::AttentionSpec>& policies, int64_t length) const {
    return absl::StrCat("run ", result_.runs.size() + 1, " of ", num_runs_, " (",
                        policies.size() > 1 ? "mixed policies" : AttentionLabel(policies.front()),
                        options_.dataset_name == "random" ? absl::StrCat(", ", length, " tokens") : "", ")");
  }

  void AddRun(const std::vector<v1::AttentionSpec>& policies, int64_t length,
              const std::vector<loadgen::RequestRecord>& records) {
    BenchRun run;
    const loadgen::RunTime duration = loadgen::RunDuration(records);
    for (size_t i = 0; i < policies.size(); ++i) {
      BenchRow row{.attention = policies[i], .policy = AttentionLabel(policies[i])};
      if (options_.dataset_name == "random") row.prompt_length = length + options_.random_prefix_len;
      std::vector<const loadgen::RequestRecord*> own;
      for (size_t k = i; k < records.size(); k += policies.size()) {
        own.push_back(&records[k]);
        if (!options_.save_detailed) continue;
        row.records.push_back(records[k]);
        row.trace_ids.push_back(TraceId(k));
      }
      row.report = loadgen::MakeReport(own, duration,
                                       {.percents = options_.metric_percentiles, .service_level = options_.goodput});
      run.rows.push_back(std::move(row));
    }
    result_.runs.push_back(std::move(run));
  }

  void Note(std::string sentence) {
    if (std::find(result_.notes.begin(), result_.notes.end(), sentence) == result_.notes.end()) {
      result_.notes.push_back(std::move(sentence));
    }
  }

  void NoteRepetition(const loadgen::Dataset& dataset) {
    if (options_.request.spec().kv().bypass_prefix_cache()) return;
    const std::optional<size_t> distinct = dataset.num_distinct();
    if (distinct && *distinct < static_cast<size_t>(options_.num_prompts)) {
      Note(absl::StrCat("the file's ", *distinct, " prompts repeat, so that a prefix cache makes later requests ",
                        "faster; --bypass-prefix-cache prevents it"));
    }
    if (!options_.mixed && policies_.size() > 1) {
      Note(
          "the policies run the same prompts in turn, so that a prefix cache can make later runs faster; "
          "--bypass-prefix-cache prevents it");
    }
  }

  void NotePrefixCache() {
    for (const BenchRun& run : result_.runs) {
      for (const BenchRow& row : run.rows) {
        if (row.report.cached_tokens == 0) continue;
        Note(absl::StrCat(row.policy, ": ", row.report.cached_tokens, " of ", row.report.input_tokens,
                          " prompt tokens came from the prefix cache"));
      }
    }
  }

  // A bench in which nothing succeeded has failed; otherwise failures are figures.
  Outcome Verdict() const {
    for (const BenchRun& run : result_.runs) {
      for (const BenchRow& row : run.rows) {
        if (row.report.ledger.Count(loadgen::Fate::kOk) > 0) return {};
      }
    }
    const loadgen::Ledger& ledger = result_.runs.back().rows.front().report.ledger;
    if (ledger.by_error.empty()) return {ExitCode::kRequestFailed, "no request succeeded"};
    const auto& [error, count] = *ledger.by_error.begin();
    return {ExitCode::kRequestFailed,
            absl::StrCat("no request succeeded; ", count, " ended as ", error, ": ", ledger.example_message.at(error))};
  }

  Outcome Failure(const absl::Status& status) const {
    return CallFailure(status, {.target = connection_.Target(*console_), .interrupted = action_.interrupted()});
  }

  const BenchOptions& options_;
  const Connection& connection_;
  Console* const console_;
  BenchResult& result_;
  const Interrupt::Action action_;
  std::vector<v1::AttentionSpec> policies_;
  std::vector<Client> clients_;
  std::string metrics_url_;  // empty: not read
  int64_t vocabulary_size_ = 0;
  const int64_t trace_time_ = absl::GetCurrentTimeNanos();
  size_t num_runs_ = 0;
};

}  // namespace

Outcome RunBench(const BenchOptions& options, const Connection& connection, Console* console, BenchResult* result) {
  return Bench(options, connection, console, result).Run();
}

}  // namespace farspan::cli
