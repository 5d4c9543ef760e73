// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <latch>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "clients/cli/json.h"
#include "tests/clients/cli_run.h"
#include "tests/clients/fake_server.h"
#include "tests/clients/scrape/one_shot_http.h"

namespace farspan::cli {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

using Writer = grpc::ServerWriter<v1::GenerateResponse>;

class BenchCommandTest : public ::testing::Test {
 protected:
  BenchCommandTest() {
    server_.handlers().info = [](v1::GetServerInfoResponse* response) {
      response->mutable_model()->set_name("tiny/model");
      response->mutable_model()->set_vocabulary_size(50);
      response->mutable_default_attention()->mutable_dense();
      return grpc::Status::OK;
    };
    server_.handlers().generate = [this](const v1::GenerateRequest& request, Writer* writer) {
      Keep(request);
      return Answer(writer);
    };
  }

  void Keep(const v1::GenerateRequest& request) {
    const std::lock_guard<std::mutex> lock(mutex_);
    requests_.push_back(request);
  }

  static grpc::Status Answer(Writer* writer) {
    writer->Write(Started(5865));
    writer->Write(Delta("a", {1}));
    writer->Write(Delta("b", {2, 3}));
    writer->Write(Finished());
    return grpc::Status::OK;
  }

  CliResult Bench(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"bench", "--server", server_.target()});
    return cli_.Run(arguments);
  }

  Json BenchJson(std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), {"--json", "--no-metrics"});
    return Json::parse(Bench(std::move(arguments)).out);
  }

  FakeServer server_;
  CliRun cli_;
  std::mutex mutex_;
  std::vector<v1::GenerateRequest> requests_;
};

TEST_F(BenchCommandTest, SendsRandomPromptsOfTheLengthsAskedFor) {
  const CliResult result = Bench({"--num-prompts", "3", "--random-input-len", "20", "--random-prefix-len", "4",
                                  "--random-output-len", "7", "--ignore-eos", "--no-metrics", "--priority", "3"});
  ASSERT_EQ(result.code, ExitCode::kOk) << result.err;
  ASSERT_EQ(requests_.size(), 3u);
  for (const v1::GenerateRequest& request : requests_) {
    EXPECT_EQ(request.spec().prompt().tokens().ids_size(), 24);
    EXPECT_EQ(request.spec().stopping().max_tokens(), 7);
    EXPECT_TRUE(request.spec().stopping().ignore_eos());
    EXPECT_EQ(request.spec().sampling().temperature(), 0);
    EXPECT_EQ(request.spec().priority(), 3);
    EXPECT_TRUE(request.attention().has_dense()) << "the server's default, by name";
  }
  EXPECT_THAT(result.out, AllOf(HasSubstr("Latencies count from the sending."), HasSubstr("dense")));
}

TEST_F(BenchCommandTest, EachPolicyRunsTheSamePromptsAtEachLength) {
  const Json json = BenchJson({"--num-prompts", "2", "--max-concurrency", "1", "--prompt-lengths", "5,9", "--attention",
                               "dense", "--attention", "window { window_tokens: 64 }"});
  ASSERT_EQ(requests_.size(), 8u);
  for (const size_t i : {0u, 1u, 4u, 5u}) {
    EXPECT_TRUE(requests_[i].attention().has_dense());
    EXPECT_TRUE(requests_[i + 2].attention().has_window());
    EXPECT_EQ(requests_[i].spec().prompt().SerializeAsString(), requests_[i + 2].spec().prompt().SerializeAsString());
    EXPECT_EQ(requests_[i].spec().prompt().tokens().ids_size(), i < 4 ? 5 : 9);
  }
  ASSERT_EQ(json["runs"].size(), 4u);
  EXPECT_EQ(json["runs"][1]["rows"][0]["attention"], "window{window_tokens=64}");
  EXPECT_EQ(json["runs"][2]["rows"][0]["prompt_length"], 9);
  EXPECT_THAT(json["notes"].dump(), HasSubstr("--bypass-prefix-cache"));
}

TEST_F(BenchCommandTest, MixedRunsInterleaveThePolicies) {
  const Json json = BenchJson(
      {"--num-prompts", "5", "--max-concurrency", "1", "--mixed", "--attention", "dense", "--attention", "window"});
  ASSERT_EQ(requests_.size(), 5u);
  for (size_t i = 0; i < 5; ++i) EXPECT_EQ(requests_[i].attention().has_window(), i % 2 == 1) << i;
  ASSERT_EQ(json["runs"].size(), 1u);
  EXPECT_EQ(json["runs"][0]["rows"][0]["completed"], 3);
  EXPECT_EQ(json["runs"][0]["rows"][1]["completed"], 2);
}

TEST_F(BenchCommandTest, JsonHasTheNamesOfVllm) {
  const Json json = BenchJson({"--num-prompts", "4", "--request-rate", "1000", "--metric-percentiles", "50,99.9",
                               "--goodput", "ttft:100000", "tpot:100000", "--percentile-metrics", "ttft,itl"});
  const Json& row = json["runs"][0]["rows"][0];
  EXPECT_EQ(row["model_id"], "tiny/model");
  EXPECT_EQ(row["completed"], 4);
  EXPECT_EQ(row["failed"], 0);
  EXPECT_EQ(row["total_input_tokens"], 4 * 5865);
  EXPECT_EQ(row["total_output_tokens"], 4 * 14);
  EXPECT_EQ(row["request_rate"], 1000);
  EXPECT_EQ(row["latency_from"], "due");
  EXPECT_EQ(row["max_concurrency"], nullptr);
  EXPECT_GT(row["p99.9_ttft_ms"], 0);
  EXPECT_DOUBLE_EQ(row["request_goodput"].get<double>(), row["request_throughput"].get<double>());
  EXPECT_FALSE(row.contains("mean_e2el_ms"));
  EXPECT_EQ(row["kv_dense_read_bytes"], int64_t{40} << 30);
  EXPECT_EQ(row["peak_kv_bytes"], int64_t{66} << 20);
}

TEST_F(BenchCommandTest, TheLedgerCountsEveryEnd) {
  server_.handlers().generate = [this](const v1::GenerateRequest& request, Writer* writer) {
    Keep(request);
    google::rpc::ErrorInfo info;
    info.set_reason("QUEUE_FULL");
    google::rpc::RetryInfo retry;
    retry.mutable_retry_delay()->set_seconds(1);
    const int64_t seed = request.spec().sampling().seed();
    if (seed == 0) return StatusWith(grpc::StatusCode::RESOURCE_EXHAUSTED, "queue is full", {&info, &retry});
    if (seed == 1) return grpc::Status(grpc::StatusCode::INTERNAL, "oh\x1bno");
    if (seed == 2) return grpc::Status(grpc::StatusCode::DEADLINE_EXCEEDED, "late");
    return Answer(writer);
  };
  const CliResult result = Bench({"--num-prompts", "5", "--no-metrics"});
  EXPECT_EQ(result.code, ExitCode::kOk) << "failures are figures as long as something succeeded";
  EXPECT_THAT(result.out, AllOf(HasSubstr("1 x RESOURCE_EXHAUSTED QUEUE_FULL: queue is full"),
                                HasSubstr("1 x INTERNAL: oh\\x1bno"), Not(HasSubstr("\x1b"))));
  const Json ledger = BenchJson({"--num-prompts", "5"})["runs"][0]["rows"][0]["ledger"];
  EXPECT_EQ(ledger.dump(), R"({"sent":5,"ok":2,"rejected":1,"deadline":1,"cancelled":0,"failed":1,"not_sent":0,)"
                           R"("rejected_with_retry_delay":1})");
}

TEST_F(BenchCommandTest, NothingSucceedingIsAFailureWithItsCause) {
  server_.handlers().generate = [](const v1::GenerateRequest&, Writer*) {
    return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "prompt: too long");
  };
  const CliResult result = Bench({"--num-prompts", "2", "--no-metrics"});
  EXPECT_EQ(result.code, ExitCode::kRequestFailed);
  EXPECT_EQ(result.err, "farspan: no request succeeded; 2 ended as INVALID_ARGUMENT: prompt: too long\n");
}

TEST_F(BenchCommandTest, CancelsAndDeadlinesReachTheServer) {
  server_.handlers().generate = [](const v1::GenerateRequest&, Writer* writer) {
    while (writer->Write(Progress(1, 1))) {
    }
    return grpc::Status::CANCELLED;
  };
  const Json cancelled =
      BenchJson({"--num-prompts", "3", "--cancel-fraction", "1", "--cancel-within-ms", "20", "--save-detailed"});
  const Json& row = cancelled["runs"][0]["rows"][0];
  EXPECT_EQ(row["ledger"]["cancelled"], 3);
  EXPECT_EQ(row["fates"].dump(), R"(["cancelled","cancelled","cancelled"])");
  EXPECT_NE(row["trace_ids"][0], row["trace_ids"][1]);
  const Json late = BenchJson({"--num-prompts", "2", "--deadline-ms", "20"});
  EXPECT_EQ(late["runs"][0]["rows"][0]["ledger"]["deadline"], 2);
}

TEST_F(BenchCommandTest, DetailsHoldTheTokensOfEachRequest) {
  const Json detailed = BenchJson({"--num-prompts", "2", "--save-detailed"});
  EXPECT_EQ(detailed["runs"][0]["rows"][0]["output_token_ids"].dump(), "[[1,2,3],[1,2,3]]");
  EXPECT_FALSE(BenchJson({"--num-prompts", "1"})["runs"][0]["rows"][0].contains("output_token_ids"));
}

TEST_F(BenchCommandTest, CtrlCEndsTheRunAndShowsWhatThereIs) {
  std::latch running(2);
  server_.handlers().generate = [&](const v1::GenerateRequest&, Writer* writer) {
    running.count_down();
    while (writer->Write(Progress(1, 1))) {
    }
    return grpc::Status::CANCELLED;
  };
  std::thread ctrl_c([&] {
    running.wait();
    cli_.interrupt.Signal();
  });
  const CliResult result = Bench({"--num-prompts", "9", "--max-concurrency", "2", "--json", "--no-metrics"});
  ctrl_c.join();
  EXPECT_EQ(result.code, ExitCode::kInterrupted);
  const Json json = Json::parse(result.out);
  EXPECT_EQ(json["interrupted"], true);
  EXPECT_EQ(json["runs"][0]["rows"][0]["ledger"]["cancelled"], 2);
  EXPECT_EQ(json["runs"][0]["rows"][0]["ledger"]["not_sent"], 7);
}

TEST_F(BenchCommandTest, ShowsTheGrowthOfTheServersCounters) {
  // Scrape 0 is the check at the start.
  const OneShotHttp metrics([](int number) {
    return HttpOk(absl::StrCat("farspan_requests_finished_total{attention_policy=\"dense\",finish_reason=\"length\"} ",
                               number * 2, "\nfarspan_kv_read_bytes_total{attention_policy=\"dense\"} ", number * 1024,
                               "\nfarspan_kv_read_bytes_dense_total{attention_policy=\"dense\"} ", number * 4096,
                               "\n"));
  });
  const CliResult result = Bench({"--num-prompts", "2", "--metrics-url", metrics.url()});
  ASSERT_EQ(result.code, ExitCode::kOk) << result.err;
  EXPECT_THAT(result.out, AllOf(HasSubstr("The server's counters over each run:"), HasSubstr("1.00 KiB"),
                                HasSubstr("4.00 KiB"), HasSubstr("25 %")));
}

TEST_F(BenchCommandTest, MetricsThatWereNamedMustBeThere) {
  const std::string url = absl::StrCat("http://", RefusingTarget(), "/metrics");
  const CliResult result = Bench({"--num-prompts", "2", "--metrics-url", url});
  EXPECT_EQ(result.code, ExitCode::kUnavailable);
  EXPECT_EQ(result.err, absl::StrCat("farspan: cannot read the server's metrics at ", url, ": Connection refused\n"));
  EXPECT_TRUE(requests_.empty());
}

TEST_F(BenchCommandTest, ReadsPromptsOfAFile) {
  const std::string path = absl::StrCat(::testing::TempDir(), "/bench_prompts.jsonl");
  std::ofstream(path) << "{\"prompt\": \"one\"}\n{\"prompt\": \"two\", \"output_tokens\": 3}\n";
  const CliResult result = Bench({"--dataset-name", "custom", "--dataset-path", path, "--num-prompts", "3",
                                  "--max-concurrency", "1", "--custom-output-len", "9", "--no-metrics"});
  ASSERT_EQ(result.code, ExitCode::kOk) << result.err;
  EXPECT_THAT(result.err, HasSubstr("the file's 2 prompts repeat"));
  ASSERT_EQ(requests_.size(), 3u);
  EXPECT_EQ(requests_[0].spec().prompt().text(), "one");
  EXPECT_EQ(requests_[0].spec().stopping().max_tokens(), 9);
  EXPECT_EQ(requests_[1].spec().stopping().max_tokens(), 3);
  std::ofstream(path) << "{\"prompt\": 1}\n";
  const CliResult bad = Bench({"--dataset-name", "custom", "--dataset-path", path, "--no-metrics"});
  EXPECT_EQ(bad.code, ExitCode::kBadInput);
  EXPECT_THAT(bad.err, HasSubstr("line 1: must be an object with a text under \"prompt\""));
}

TEST_F(BenchCommandTest, SavesAFileARow) {
  const std::filesystem::path folder = std::filesystem::path(::testing::TempDir()) / "bench_results";
  std::filesystem::create_directories(folder);
  const CliResult result =
      Bench({"--num-prompts", "1", "--attention", "dense", "--attention", "window", "--save-result", "--result-dir",
             folder.string(), "--label", "nightly", "--no-metrics"});
  ASSERT_EQ(result.code, ExitCode::kOk) << result.err;
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  ASSERT_EQ(names.size(), 2u);
  EXPECT_THAT(names[0], HasSubstr("nightly-infqps-tiny_model-dense-1024-"));
  EXPECT_THAT(names[1], HasSubstr("nightly-infqps-tiny_model-window-1024-"));
  std::ifstream file(folder / names[0]);
  EXPECT_EQ(Json::parse(file)["completed"], 1);
  std::filesystem::remove_all(folder);
  EXPECT_EQ(Bench({"--num-prompts", "1", "--save-result", "--result-dir", folder.string(), "--no-metrics"}).code,
            ExitCode::kOutputFailed);
}

TEST_F(BenchCommandTest, WrongFlagsAreNamed) {
  const std::pair<std::vector<std::string>, const char*> cases[] = {
      {{"--request-rate", "0"}, "--request-rate: must be a number above 0 and at most 1e+06, got '0' (or inf)"},
      {{"--num-prompts", "0"}, "--num-prompts: must be a whole number from 1 to 1000000, got '0'"},
      {{"--goodput", "ttft:200", "speed:1"}, "--goodput: must be ttft:MS, tpot:MS or e2el:MS"},
      {{"--dataset-name", "sharegpt"}, "--dataset-name: must be random or custom, got 'sharegpt'"},
      {{"--dataset-name", "custom"}, "--dataset-path: must be given with --dataset-name custom"},
      {{"--mixed"}, "--mixed: needs --attention at least twice"},
      {{"--percentile-metrics", "ttft,speed"}, "--percentile-metrics: must be of ttft, tpot, itl, e2el"},
      {{"--metric-percentiles", "101"}, "--metric-percentiles: must be a number from 0 to 100, got '101'"},
      {{"--metrics-url", "localhost"}, "--metrics-url: must be http://HOST:PORT/PATH, got 'localhost'"},
      {{"--label", "a/b"}, "--label: must be a part of a file's name, got 'a/b'"}};
  for (const auto& [arguments, message] : cases) {
    const CliResult result = Bench(arguments);
    EXPECT_EQ(result.code, ExitCode::kUsage) << message;
    EXPECT_THAT(result.err, HasSubstr(message));
  }
}

}  // namespace
}  // namespace farspan::cli
