// SPDX-License-Identifier: Apache-2.0
#include "clients/cli/bench_options.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "clients/cli/attention_flag.h"
#include "clients/cli/generation_flags.h"
#include "clients/cli/metrics_address.h"
#include "clients/cli/number_flags.h"

namespace farspan::cli {
namespace {

constexpr int64_t kMaxPolicies = 16;
constexpr int64_t kMaxPromptTokens = 1 << 24;
constexpr int64_t kMaxPrompts = 1'000'000;
constexpr const char* kMetrics[] = {"ttft", "tpot", "itl", "e2el"};

// Calls `take` with each part of "a,b,c"; an empty text has none and is refused.
template <typename Take>
absl::Status ForEachPart(const std::string& text, Take take) {
  if (text.empty()) return absl::InvalidArgumentError("must not be empty");
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    if (absl::Status status = take(std::string(part)); !status.ok()) return status;
  }
  return absl::OkStatus();
}

template <typename AddFlags>
void AddGroup(const std::string& group, AddFlags add, FlagSet* flags) {
  FlagSet added;
  add(&added);
  for (Flag flag : added.flags()) {
    flag.group = group;
    flags->Add(std::move(flag));
  }
}

absl::Status SetRate(const std::string& text, std::optional<double>* rate) {
  rate->reset();
  if (text == "inf") return absl::OkStatus();
  double parsed = 0;
  absl::Status status = ParseNumber(text, {.minimum = 0, .maximum = 1e6, .exclusive_minimum = true}, &parsed);
  if (!status.ok()) return absl::InvalidArgumentError(absl::StrCat(status.message(), " (or inf)"));
  *rate = parsed;
  return absl::OkStatus();
}

absl::Status SetDataset(const std::string& text, std::string* name) {
  if (text != "random" && text != "custom") {
    return absl::InvalidArgumentError(absl::StrCat("must be random or custom, got ", Quoted(text)));
  }
  *name = text;
  return absl::OkStatus();
}

absl::Status SetMetrics(const std::string& text, std::vector<std::string>* metrics) {
  metrics->clear();
  return ForEachPart(text, [&](const std::string& part) {
    if (std::find(std::begin(kMetrics), std::end(kMetrics), part) == std::end(kMetrics)) {
      return absl::InvalidArgumentError(
          absl::StrCat("must be of ", absl::StrJoin(kMetrics, ", "), " with commas between, got ", Quoted(part)));
    }
    metrics->push_back(part);
    return absl::OkStatus();
  });
}

absl::Status SetPercentiles(const std::string& text, std::vector<double>* percentiles) {
  percentiles->clear();
  return ForEachPart(text, [&](const std::string& part) {
    double value = 0;
    absl::Status status = ParseNumber(part, {.minimum = 0, .maximum = 100}, &value);
    percentiles->push_back(value);
    return status;
  });
}

absl::Status SetLengths(const std::string& text, std::vector<int64_t>* lengths) {
  lengths->clear();
  return ForEachPart(text, [&](const std::string& part) {
    int64_t value = 0;
    absl::Status status = ParseWhole(part, 1, kMaxPromptTokens, &value);
    lengths->push_back(value);
    return status;
  });
}

}  // namespace

BenchOptions::BenchOptions() { request.mutable_spec()->mutable_sampling()->set_temperature(0); }

void BenchOptions::AddPromptFlags(FlagSet* flags) {
  flags->Add({.name = "dataset-name",
              .value_name = "NAME",
              .doc = "random: prompts of random tokens, their lengths exact. custom: prompts of a file [default "
                     "random].",
              .set = [this](const std::string& text) { return SetDataset(text, &dataset_name); }});
  flags->AddText(
      "dataset-path", "FILE",
      R"(The file of --dataset-name custom: one prompt a line, or, where the name ends in .jsonl, {"prompt": )"
      R"("...", "output_tokens": N} a line, the number optional.)",
      &dataset_path);
  AddWholeFlag("custom-output-len", "TOKENS", "Tokens to ask for where a prompt of a file does not say", 1,
               kMaxPromptTokens, &custom_output_len, flags);
  AddWholeFlag("random-input-len", "TOKENS", "Length of random prompts, their shared prefix not counted", 1,
               kMaxPromptTokens, &random_input_len, flags);
  AddWholeFlag("random-output-len", "TOKENS", "Tokens to ask for after random prompts", 1, kMaxPromptTokens,
               &random_output_len, flags);
  AddNumberFlag("random-range-ratio", "RATIO",
                "Draws both lengths evenly from this share below to this share above them; below 1",
                {.minimum = 0, .maximum = 0.999999}, &random_range_ratio, flags);
  AddWholeFlag("random-prefix-len", "TOKENS", "Tokens that all random prompts begin with", 0, kMaxPromptTokens,
               &random_prefix_len, flags);
  flags->Add({.name = "prompt-lengths",
              .value_name = "TOKENS,...",
              .doc = "Runs everything once for each of these values of --random-input-len.",
              .set = [this](const std::string& text) { return SetLengths(text, &prompt_lengths); }});
  AddWholeFlag("num-prompts", "N", "Requests of each run", 1, kMaxPrompts, &num_prompts, flags);
  AddWholeFlag("num-warmups", "N", "Requests sent one by one before each run and not counted", 0, kMaxPrompts,
               &num_warmups, flags);
  AddWholeFlag("seed", "N", "Of prompts, arrivals, cancels and deadlines; equal seeds ask the same", 0, INT64_MAX,
               &seed, flags);
}

void BenchOptions::AddTimingFlags(FlagSet* flags) {
  flags->Add({.name = "request-rate",
              .value_name = "N",
              .doc = "Requests a second, sent at their times whether or not earlier ones were answered; latencies "
                     "count from those times. inf sends everything at once, and latencies count from the sending "
                     "[default inf].",
              .set = [this](const std::string& text) { return SetRate(text, &request_rate); }});
  AddNumberFlag("burstiness", "SHAPE",
                "Of the gaps between arrivals: 1 is a Poisson process, less is burstier, more is more even",
                {.minimum = 0, .maximum = 1e6, .exclusive_minimum = true}, &burstiness, flags);
  AddWholeFlag("max-concurrency", "N", "Requests in flight at most; others wait for a slot. 0 has no bound", 0,
               kMaxPrompts, &max_concurrency, flags);
  AddWholeFlag("connections", "N", "Connections that the requests share", 1, 256, &connections, flags);
  AddNumberFlag("cancel-fraction", "SHARE", "Cancels this share of the requests at random times",
                {.minimum = 0, .maximum = 1}, &cancel_fraction, flags);
  AddNumberFlag("cancel-within-ms", "MS", "Longest time from sending to cancelling",
                {.minimum = 0, .maximum = 1e9, .exclusive_minimum = true}, &cancel_within_ms, flags);
  AddNumberFlag("deadline-ms", "MS", "Gives requests a deadline after their sending. 0 gives none",
                {.minimum = 0, .maximum = 1e9}, &deadline_ms, flags);
  AddNumberFlag("deadline-fraction", "SHARE", "Share of the requests that get the deadline",
                {.minimum = 0, .maximum = 1}, &deadline_fraction, flags);
}

void BenchOptions::AddReportFlags(FlagSet* flags) {
  flags->Add({.name = "percentile-metrics",
              .value_name = "NAME,...",
              .doc = "Latencies to report: ttft (to the first token), tpot (mean time between a request's tokens "
                     "after the first), itl (gap between two deliveries of tokens), e2el (to the last token) "
                     "[default ttft,tpot,itl,e2el].",
              .set = [this](const std::string& text) { return SetMetrics(text, &percentile_metrics); }});
  flags->Add({.name = "metric-percentiles",
              .value_name = "PERCENT,...",
              .doc = "Percentiles of each, beside the median [default 99].",
              .set = [this](const std::string& text) { return SetPercentiles(text, &metric_percentiles); }});
  flags->Add({.name = "goodput",
              .value_name = "NAME:MS",
              .doc = "What a good request keeps, as in --goodput ttft:200 tpot:50 e2el:5000; adds the rate of good "
                     "requests.",
              .several = true,
              .set = [this](const std::string& text) { return loadgen::ParseServiceLevel(text, &goodput); }});
  AddMetricsUrlFlag("Where the server's metrics are read before and after each run", &metrics_url, flags);
  flags->AddSwitch("metrics", "Reads them [default on].", &metrics);
  flags->AddSwitch("save-result", "Writes each row as a JSON file.", &save_result);
  flags->AddSwitch("save-detailed", "Puts the values of every request into the JSON.", &save_detailed);
  flags->AddText("result-dir", "DIR", "Where the files go [default: here].", &result_dir);
  flags->AddText("label", "TEXT", "Begins the files' names and stands in them [default farspan].", &label);
  flags->AddSwitch("json", "Prints one JSON object instead of the tables.", &json);
  flags->AddSwitch("quiet", "No progress and no notes.", &quiet);
}

// The flags of a generation, without those that a run sets itself.
void BenchOptions::AddRequestFlags(FlagSet* flags) {
  FlagSet all;
  AddGenerationFlags(request.mutable_spec(), &all);
  for (const Flag& flag : all.flags()) {
    if (flag.name != "seed" && flag.name != "max-tokens") flags->Add(flag);
  }
}

void BenchOptions::AddTo(FlagSet* flags) {
  AddAttentionFlag("attention", "A policy to run; each runs the same prompts in turn [default: the server's].",
                   kMaxPolicies, &attention, flags);
  flags->AddSwitch("mixed", "Runs the policies of --attention at the same time, request by request in turn.", &mixed);
  AddGroup(
      "Prompts", [this](FlagSet* group) { AddPromptFlags(group); }, flags);
  AddGroup(
      "Arrivals", [this](FlagSet* group) { AddTimingFlags(group); }, flags);
  AddGroup(
      "Report", [this](FlagSet* group) { AddReportFlags(group); }, flags);
  AddRequestFlags(flags);
}

absl::Status BenchOptions::Check() const {
  const bool custom = dataset_name == "custom";
  if (custom && dataset_path.empty()) {
    return absl::InvalidArgumentError("--dataset-path: must be given with --dataset-name custom");
  }
  if (!custom && !dataset_path.empty()) {
    return absl::InvalidArgumentError("--dataset-path: needs --dataset-name custom");
  }
  if (custom && !prompt_lengths.empty()) {
    return absl::InvalidArgumentError("--prompt-lengths: needs --dataset-name random");
  }
  if (mixed && attention.size() < 2) {
    return absl::InvalidArgumentError("--mixed: needs --attention at least twice");
  }
  if (label.empty() || label.find('/') != std::string::npos) {
    return absl::InvalidArgumentError(absl::StrCat("--label: must be a part of a file's name, got ", Quoted(label)));
  }
  return absl::OkStatus();
}

}  // namespace farspan::cli
