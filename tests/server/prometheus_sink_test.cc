// SPDX-License-Identifier: Apache-2.0
#include "server/prometheus_sink.h"

#include <gmock/gmock.h>

#include <fstream>
#include <map>
#include <numeric>
#include <set>
#include <sstream>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "server/config.h"
#include "server/error.h"
#include "server/metric_table.h"
#include "server/model_loader.h"
#include "server/request_parser.h"
#include "tests/server/metrics_options.h"
#include "tests/support/tiny_checkpoint.h"

namespace farspan {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr int kJunk = 10000;

// One line of the page.
struct Series {
  std::string family;  // without a histogram's suffixes
  std::map<std::string, std::string> labels;
  double value = 0;
};

struct Page {
  std::map<std::string, std::string> types;  // by family
  std::vector<Series> series;
};

std::string FamilyOf(const std::string& name, const std::map<std::string, std::string>& types) {
  for (const char* suffix : {"_bucket", "_sum", "_count"}) {
    const std::string stem = name.substr(0, name.size() - std::min(name.size(), strlen(suffix)));
    const auto type = types.find(stem);
    if (absl::EndsWith(name, suffix) && type != types.end() && type->second == "histogram") return stem;
  }
  return name;
}

Page Parse(const std::string& text) {
  Page page;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (absl::StartsWith(line, "# TYPE ")) {
      const std::vector<std::string> words = absl::StrSplit(line, ' ');
      EXPECT_TRUE(page.types.emplace(words[2], words[3]).second) << line;
    }
    if (line.empty() || line[0] == '#') continue;
    const size_t open = line.find('{'), close = line.rfind('}');
    Series series = {.family = FamilyOf(line.substr(0, open), page.types)};
    for (const absl::string_view label : absl::StrSplit(line.substr(open + 1, close - open - 1), ',')) {
      const std::pair<std::string, std::string> parts = absl::StrSplit(label, absl::MaxSplits('=', 1));
      series.labels[parts.first] = parts.second.substr(1, parts.second.size() - 2);
    }
    series.value = std::stod(line.substr(close + 1));
    page.series.push_back(std::move(series));
  }
  return page;
}

class PrometheusSinkTest : public ::testing::Test {
 protected:
  PrometheusSinkTest() { sink_.Open(options_); }

  Page Read(const MetricsReadings& readings = {}) { return Parse(sink_.Text(readings)); }

  const MetricsOptions options_ = OptionsForTest();
  PrometheusSink sink_;
};

// Sum over the series of `family` whose labels include `labels`; the value line of counters and gauges only.
double Sum(const Page& page, const std::string& family, const std::map<std::string, std::string>& labels = {}) {
  double sum = 0;
  for (const Series& series : page.series) {
    if (series.family != family) continue;
    const bool matches = std::all_of(labels.begin(), labels.end(), [&](const auto& label) {
      const auto own = series.labels.find(label.first);
      return own != series.labels.end() && own->second == label.second;
    });
    if (matches) sum += series.value;
  }
  return sum;
}

TEST_F(PrometheusSinkTest, ExportsEveryFamilyOfTheTableAndNothingElse) {
  std::map<std::string, std::string> expected;
  for (const MetricFamily& family : MetricTable()) {
    expected[std::string(family.name)] = family.type == MetricType::kHistogram ? "histogram"
                                         : family.type == MetricType::kCounter ? "counter"
                                                                               : "gauge";
  }
  EXPECT_EQ(Read().types, expected);
}

TEST_F(PrometheusSinkTest, EveryValueOfAClosedLabelExistsFromTheStart) {
  std::map<std::pair<std::string, std::string>, std::set<std::string>> seen;  // by family and label
  for (const Series& series : Read().series) {
    for (const auto& [name, value] : series.labels) seen[{series.family, name}].insert(value);
  }
  for (const MetricFamily& family : MetricTable()) {
    for (const MetricLabel* label : family.labels) {
      const std::set<std::string>& values = seen[{std::string(family.name), std::string(label->name)}];
      EXPECT_FALSE(values.empty()) << family.name << " " << label->name;
      if (label->values.empty()) continue;
      EXPECT_EQ(values, std::set<std::string>(label->values.begin(), label->values.end())) << family.name;
    }
  }
}

TEST_F(PrometheusSinkTest, EveryPolicyHasSeriesFromTheStart) {
  std::set<std::string> policies;
  for (const Series& series : Read().series) {
    if (series.family == "farspan_kv_resident_bytes") policies.insert(series.labels.at("attention_policy"));
  }
  std::set<std::string> expected;
  for (const PolicyTraits& policy : options_.policies) expected.emplace(policy.name);
  EXPECT_EQ(policies, expected);
}

TEST_F(PrometheusSinkTest, LeavesVllmsNamesOutWhenToldTo) {
  MetricsOptions options = OptionsForTest();
  options.vllm_families = false;
  PrometheusSink sink;
  sink.Open(options);
  EXPECT_THAT(sink.Text({}), Not(HasSubstr("vllm:")));
}

TEST_F(PrometheusSinkTest, MemoryKindsSumToAllOfAGpu) {
  MetricsReadings readings;
  for (size_t i = 0; i < readings.memory_bytes.size(); ++i) readings.memory_bytes[i] = int64_t{1000} << i;
  readings.device_memory = {.total_bytes = 100'000, .free_bytes = 60'000};
  const Page page = Read(readings);
  EXPECT_EQ(Sum(page, "farspan_device_memory_bytes", {{"kind", "free"}}), 60'000);
  EXPECT_EQ(Sum(page, "farspan_device_memory_bytes", {{"kind", "other"}}), 100'000 - 60'000 - 31'000);
  EXPECT_EQ(Sum(page, "farspan_device_memory_bytes"), 100'000);
}

TEST_F(PrometheusSinkTest, MemoryKindsAreDisjointAndSumToWhatTheBackendHolds) {
  MetricsReadings readings;
  for (size_t i = 0; i < readings.memory_bytes.size(); ++i) readings.memory_bytes[i] = int64_t{1000} << i;
  const int64_t page_bytes = options_.shape.kv_bytes_per_page();
  readings.memory_bytes[static_cast<size_t>(MemoryKind::kKvPages)] = options_.kv_pages_total * page_bytes;
  sink_.OnGauges({.kv_pages_free = 60, .kv_pages_used = 30, .kv_pages_cached = 10});
  const Page page = Read(readings);
  const auto bytes = [&](const char* kind) { return Sum(page, "farspan_device_memory_bytes", {{"kind", kind}}); };
  EXPECT_EQ(bytes("kv_used"), static_cast<double>(30 * page_bytes));
  EXPECT_EQ(bytes("kv_cached"), static_cast<double>(10 * page_bytes));
  EXPECT_EQ(bytes("kv_free"), static_cast<double>(60 * page_bytes));
  EXPECT_EQ(bytes("side_data"), static_cast<double>(readings.memory_bytes[size_t(MemoryKind::kSideData)]));
  EXPECT_EQ(
      Sum(page, "farspan_device_memory_bytes"),
      static_cast<double>(std::accumulate(readings.memory_bytes.begin(), readings.memory_bytes.end(), int64_t{0})));
  EXPECT_EQ(Sum(page, "farspan_kv_pages"), 100);
  EXPECT_EQ(Sum(page, "vllm:kv_cache_usage_perc"), 0.3);
}

TEST_F(PrometheusSinkTest, GaugesOfAPolicyWithoutLiveRequestsReturnToZero) {
  EngineGauges gauges;
  gauges.policies = {{.policy = "window",
                      .requests_waiting = 3,
                      .requests_running = 2,
                      .resident_bytes = 512,
                      .side_data_bytes = 16,
                      .logical_tokens = 90,
                      .resident_tokens = 40}};
  sink_.OnGauges(gauges);
  const Page busy = Read();
  const std::map<std::string, std::string> window = {{"attention_policy", "window"}};
  EXPECT_EQ(Sum(busy, "farspan_requests_waiting", window), 3);
  EXPECT_EQ(Sum(busy, "farspan_requests_running", window), 2);
  EXPECT_EQ(Sum(busy, "farspan_kv_resident_bytes", window), 512);
  EXPECT_EQ(Sum(busy, "farspan_kv_aux_bytes", window), 16);
  EXPECT_EQ(Sum(busy, "farspan_kv_logical_tokens", window), 90);
  EXPECT_EQ(Sum(busy, "farspan_kv_resident_tokens", window), 40);
  EXPECT_EQ(Sum(busy, "farspan_requests_running"), 2);
  sink_.OnGauges({});
  const Page idle = Read();
  for (const char* family : {"farspan_requests_waiting", "farspan_requests_running", "farspan_kv_resident_bytes",
                             "farspan_kv_aux_bytes", "farspan_kv_logical_tokens", "farspan_kv_resident_tokens"}) {
    EXPECT_EQ(Sum(idle, family), 0) << family;
  }
}

TEST_F(PrometheusSinkTest, AFinishedRequestCountsOnceInBothLayers) {
  Request request;
  request.num_samples = 3;
  request.stop.max_tokens = 40;
  RequestStatistics statistics = {
      .prompt_tokens = 5000, .cached_prompt_tokens = 1000, .generated_tokens = 30, .preemptions = 2};
  statistics.prefill = {.entries_selected = 25, .entries_candidate = 100};
  statistics.last_token = statistics.finished = SteadyTime(std::chrono::seconds(3));
  statistics.first_token = SteadyTime(std::chrono::seconds(1));
  sink_.OnRequestFinished({.policy = "window",
                           .reason = FinishReason::kLength,
                           .request = &request,
                           .statistics = &statistics,
                           .longest_sample_tokens = 11});
  const Page page = Read();
  EXPECT_EQ(Sum(page, "farspan_requests_finished_total", {{"attention_policy", "window"}, {"finish_reason", "length"}}),
            1);
  EXPECT_EQ(Sum(page, "farspan_requests_finished_total"), 1);
  EXPECT_EQ(Sum(page, "farspan_prompt_tokens_total", {{"source", "computed"}}), 4000);
  EXPECT_EQ(Sum(page, "farspan_prompt_tokens_total", {{"source", "cached"}}), 1000);
  EXPECT_EQ(Sum(page, "vllm:prompt_tokens_total"), 5000);
  EXPECT_EQ(Sum(page, "vllm:prompt_tokens_by_source_total"), 5000);
  EXPECT_EQ(Sum(page, "vllm:prompt_tokens_cached_total"), 1000);
  const std::string text = sink_.Text({});
  for (const char* line :
       {"farspan_e2e_request_latency_seconds_count{attention_policy=\"window\",context_band=\"le16k\","
        "model_name=\"tiny\"} 1\n",
        "farspan_request_kv_selected_ratio_sum{attention_policy=\"window\",model_name=\"tiny\"} 0.25\n",
        "vllm:request_params_n_sum{engine=\"0\",model_name=\"tiny\"} 3\n",
        "vllm:request_params_max_tokens_sum{engine=\"0\",model_name=\"tiny\"} 40\n",
        "vllm:request_max_num_generation_tokens_sum{engine=\"0\",model_name=\"tiny\"} 11\n",
        "vllm:request_generation_tokens_sum{engine=\"0\",model_name=\"tiny\"} 30\n",
        "vllm:request_prefill_kv_computed_tokens_sum{engine=\"0\",model_name=\"tiny\"} 4000\n",
        "vllm:request_num_preemptions_sum{engine=\"0\",model_name=\"tiny\"} 2\n",
        "vllm:request_decode_time_seconds_sum{engine=\"0\",model_name=\"tiny\"} 2\n",
        "farspan_request_time_per_output_token_seconds_sum{attention_policy=\"window\",context_band=\"le16k\","
        "model_name=\"tiny\"} 0.2\n"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
}

TEST_F(PrometheusSinkTest, CountsWhatEachEventSays) {
  sink_.OnPreempted("dense");
  sink_.OnPrefixLookup({.policy = "dense", .queried_tokens = 70, .hit_tokens = 64});
  sink_.OnStep({.decode_rows = 3, .prefill_tokens = 5, .num_sequences = 4, .num_policies = 2, .overrun_rows = 2});
  sink_.OnMessage("Generate", MessageDirection::kReceived, 17);
  sink_.OnMessage("Generate", MessageDirection::kSent, 900);
  sink_.OnCompared({.policy = "window", .reference = "dense", .first_divergence = 6, .token_agreement = 0.5});
  sink_.OnCompared({.policy = "dense", .reference = "window", .token_agreement = 1});
  MetricsReadings readings;
  readings.op_time[static_cast<size_t>(TimedOp::kDecodeAttention)] = std::chrono::seconds(4);
  readings.op_time[static_cast<size_t>(TimedOp::kDecodeSelection)] = std::chrono::seconds(1);
  const Page page = Read(readings);
  EXPECT_EQ(Sum(page, "farspan_preemptions_total", {{"attention_policy", "dense"}, {"mode", "recompute"}}), 1);
  EXPECT_EQ(Sum(page, "vllm:num_preemptions_total"), 1);
  EXPECT_EQ(Sum(page, "farspan_batch_overrun_rows_total"), 2);
  EXPECT_EQ(Sum(page, "farspan_prefix_cache_queried_tokens_total", {{"attention_policy", "dense"}}), 70);
  EXPECT_EQ(Sum(page, "farspan_prefix_cache_hit_tokens_total"), 64);
  EXPECT_EQ(Sum(page, "vllm:prefix_cache_queries_total"), 70);
  EXPECT_EQ(Sum(page, "vllm:prefix_cache_hits_total"), 64);
  EXPECT_EQ(Sum(page, "farspan_grpc_message_bytes_total", {{"direction", "received"}}), 17);
  EXPECT_EQ(Sum(page, "farspan_grpc_message_bytes_total", {{"direction", "sent"}, {"method", "Generate"}}), 900);
  EXPECT_EQ(Sum(page, "farspan_compare_runs_total", {{"reference_policy", "dense"}}), 1);
  EXPECT_EQ(Sum(page, "farspan_compare_equal_runs_total", {{"reference_policy", "dense"}}), 0);
  EXPECT_EQ(Sum(page, "farspan_compare_equal_runs_total", {{"reference_policy", "other"}}), 1);
  EXPECT_EQ(Sum(page, "farspan_attention_seconds_total", {{"phase", "decode"}}), 4);
  EXPECT_EQ(Sum(page, "farspan_policy_overhead_seconds_total", {{"phase", "decode"}}), 1);
  EXPECT_THAT(sink_.Text(readings),
              HasSubstr("farspan_engine_step_seconds_count{model_name=\"tiny\",phase=\"mixed\"} 1"));
  EXPECT_EQ(Sum(Read(readings), "farspan_attention_seconds_total"), 4) << "read twice, counted once";
}

TEST_F(PrometheusSinkTest, EveryTokenCountsAndASampleThatFollowsHasNoFirstLatency) {
  using Place = TokenEvent::Place;
  for (const Place place : {Place::kFirstOfRequest, Place::kFirstOfSample, Place::kLater, Place::kLater}) {
    sink_.OnToken({.policy = "dense", .place = place, .gap = std::chrono::seconds(1), .prompt_tokens = 4097});
  }
  const std::string text = sink_.Text({});
  for (const char* line :
       {"farspan_generation_tokens_total{attention_policy=\"dense\",model_name=\"tiny\"} 4\n",
        "farspan_time_to_first_token_seconds_count{attention_policy=\"dense\",context_band=\"le16k\","
        "model_name=\"tiny\"} 1\n",
        "farspan_inter_token_latency_seconds_count{attention_policy=\"dense\",context_band=\"le16k\","
        "model_name=\"tiny\"} 2\n",
        "vllm:generation_tokens_total{engine=\"0\",model_name=\"tiny\"} 4\n",
        "vllm:time_to_first_token_seconds_count{engine=\"0\",model_name=\"tiny\"} 1\n",
        "vllm:inter_token_latency_seconds_count{engine=\"0\",model_name=\"tiny\"} 2\n"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
}

// The reasons as error.h spells them: what stands between quotes in capitals.
std::vector<std::string> ReasonsOfErrors() {
  std::ostringstream text;
  text << std::ifstream("server/error.h").rdbuf();
  std::vector<std::string> reasons;
  for (const absl::string_view word : absl::StrSplit(text.str(), '"')) {
    const auto is_part = [](char c) { return absl::ascii_isupper(static_cast<unsigned char>(c)) || c == '_'; };
    if (!word.empty() && std::all_of(word.begin(), word.end(), is_part)) reasons.emplace_back(word);
  }
  return reasons;
}

TEST_F(PrometheusSinkTest, EveryReasonOfAnErrorHasItsOwnSeries) {
  const std::vector<std::string> reasons = ReasonsOfErrors();
  EXPECT_EQ(reasons.size() + 1, std::size(kRejectionReasons));
  for (const std::string& reason : reasons) sink_.OnRejected(reason);
  const Page page = Read();
  for (const std::string_view label : kRejectionReasons) {
    EXPECT_EQ(Sum(page, "farspan_requests_rejected_total", {{"reason", std::string(label)}}), label == "other" ? 0 : 1)
        << label;
  }
}

// Names and labels of all series, without values.
std::vector<std::string> Names(const std::string& text) {
  std::vector<std::string> names;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line[0] != '#') names.push_back(line.substr(0, line.rfind(' ')));
  }
  return names;
}

TEST_F(PrometheusSinkTest, JunkReasonsMakeNoSeries) {
  const std::vector<std::string> before = Names(sink_.Text({}));
  for (int i = 0; i < kJunk; ++i) sink_.OnRejected(absl::StrCat("JUNK_", i));
  EXPECT_EQ(Names(sink_.Text({})), before);
  EXPECT_EQ(Sum(Read(), "farspan_requests_rejected_total", {{"reason", "other"}}), kJunk);
}

// What a client can say, through the parser, into the sink as calls do it: a model, a policy, or a tenant, an id and a
// priority that are accepted.
v1::GenerateRequest JunkRequest(int i, const std::string& junk) {
  v1::GenerateRequest request;
  request.mutable_spec()->mutable_prompt()->set_text("a");
  request.mutable_spec()->set_client_request_id(junk);
  v1::AttentionSpec* const attention = request.mutable_attention();
  switch (i % 3) {
    case 0:
      request.mutable_spec()->set_model(junk);
      break;
    case 1:
      // No policy of this build has such a number.
      attention->GetReflection()->MutableUnknownFields(attention)->AddLengthDelimited(1000 + i, junk);
      break;
    default:
      attention->mutable_window()->set_window_tokens(100 + i % 1000);
  }
  return request;
}

void Finish(const Request& request, PrometheusSink* sink) {
  const RequestStatistics statistics = {.prompt_tokens = 1, .generated_tokens = 1};
  sink->OnToken({.policy = request.policy->name(), .place = TokenEvent::Place::kFirstOfRequest, .prompt_tokens = 1});
  sink->OnRequestFinished({.policy = request.policy->name(),
                           .reason = FinishReason::kLength,
                           .request = &request,
                           .statistics = &statistics});
}

TEST(MetricCardinalityTest, JunkRequestsMakeNoSeries) {
  const TinyCheckpoint checkpoint;
  const CommandLine line =
      ParseCommandLine({"--model", checkpoint.path(), "--served-model-name", "tiny", "--threads", "1"}, {});
  ASSERT_THAT(line.errors, IsEmpty());
  PrometheusSink sink;
  LoadError error;
  const std::unique_ptr<ServedModel> model = LoadServedModel(line.config, &sink, &error);
  ASSERT_NE(model, nullptr) << error.sentence;
  sink.Open(OptionsForTest());
  const std::vector<std::string> before = Names(sink.Text({}));
  int64_t num_finished = 0;
  for (int i = 0; i < kJunk; ++i) {
    const std::string junk = absl::StrCat("junk-", i);
    const absl::StatusOr<ParsedGeneration> parsed =
        ParseGeneration(JunkRequest(i, junk), {.request_id = junk, .tenant = junk}, *model);
    if (parsed.ok()) {
      ++num_finished;
      Finish(parsed->request, &sink);
    } else {
      sink.OnRejected(ReasonOf(parsed.status()));
    }
  }
  EXPECT_EQ(num_finished, kJunk / 3);
  const std::string after = sink.Text({});
  EXPECT_EQ(Names(after), before);
  EXPECT_EQ(Sum(Parse(after), "farspan_requests_finished_total", {{"attention_policy", "window"}}), num_finished);
  EXPECT_EQ(Sum(Parse(after), "farspan_requests_rejected_total"), kJunk - num_finished);
  EXPECT_EQ(Sum(Parse(after), "farspan_requests_rejected_total", {{"reason", "other"}}), 0);
  EXPECT_THAT(after, Not(HasSubstr("junk")));
}

}  // namespace
}  // namespace farspan
