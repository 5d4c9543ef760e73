// SPDX-License-Identifier: Apache-2.0
// The flags of `farspan bench`, under the names of vLLM's benchmark where it has them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "clients/cli/flag_set.h"
#include "clients/loadgen/load_report.h"
#include "farspan/v1/inference.pb.h"

namespace farspan::cli {

struct BenchOptions {
  // What is asked.
  std::string dataset_name = "random";
  std::string dataset_path;
  int64_t random_input_len = 1024;
  int64_t random_output_len = 128;
  double random_range_ratio = 0;
  int64_t random_prefix_len = 0;
  int64_t custom_output_len = 256;
  std::vector<int64_t> prompt_lengths;
  int64_t num_prompts = 1000;
  int64_t num_warmups = 0;
  int64_t seed = 0;
  v1::GenerateRequest request;  // what every request has in common
  google::protobuf::RepeatedPtrField<v1::AttentionSpec> attention;
  bool mixed = false;

  // When.
  std::optional<double> request_rate;  // absent: all at once
  double burstiness = 1;
  int64_t max_concurrency = 0;
  int64_t connections = 8;
  double cancel_fraction = 0;
  double cancel_within_ms = 1000;
  double deadline_ms = 0;
  double deadline_fraction = 1;

  // What is reported.
  std::vector<std::string> percentile_metrics{"ttft", "tpot", "itl", "e2el"};
  std::vector<double> metric_percentiles{99};
  loadgen::ServiceLevel goodput;
  std::optional<std::string> metrics_url;
  bool metrics = true;
  bool save_result = false;
  bool save_detailed = false;
  std::string result_dir = ".";
  std::string label = "farspan";
  bool json = false;
  bool quiet = false;

  BenchOptions();

  // Parsing writes into the options, which outlive the flags.
  void AddTo(FlagSet* flags);
  // What is wrong with the flags together.
  absl::Status Check() const;

 private:
  void AddPromptFlags(FlagSet* flags);
  void AddTimingFlags(FlagSet* flags);
  void AddReportFlags(FlagSet* flags);
  void AddRequestFlags(FlagSet* flags);
};

}  // namespace farspan::cli
