// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>

#include <sstream>
#include <string>
#include <vector>

#include "tests/e2e/server_harness.h"

namespace farspan {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// Names and labels of all series, without values.
std::vector<std::string> SeriesOf(const std::string& metrics) {
  std::vector<std::string> series;
  std::istringstream lines(metrics);
  for (std::string line; std::getline(lines, line);) {
    if (!line.empty() && line[0] != '#') series.push_back(line.substr(0, line.rfind(' ')));
  }
  return series;
}

TEST(MetricsServingTest, CountWhatHappensAndNeverGrowASeries) {
  ServerHarness harness;
  const auto [code, before] = harness.Get("/metrics");
  ASSERT_EQ(code, 200);
  for (int i = 0; i < 40; ++i) {
    v1::GenerateRequest request = GreedyRequest("junk", 2);
    request.mutable_spec()->set_model("junk-" + std::to_string(i));
    request.mutable_spec()->set_client_request_id("junk-" + std::to_string(i));
    harness.Generate(request);
  }
  harness.Generate(GreedyRequest("hello", 5));
  v1::GenerateRequest samples = GreedyRequest("samples", 4);
  samples.mutable_spec()->mutable_sampling()->set_n(3);
  harness.Generate(samples);
  ASSERT_TRUE(harness.WaitForIdlePages());
  const std::string after = harness.Get("/metrics").second;
  EXPECT_EQ(SeriesOf(after), SeriesOf(before));
  EXPECT_THAT(after, HasSubstr("vllm:generation_tokens_total{engine=\"0\",model_name=\"tiny\"} 17\n"));
  EXPECT_THAT(after, HasSubstr("reason=\"model_not_found\"} 40\n"));
  EXPECT_THAT(after, HasSubstr("farspan_requests_finished_total{attention_policy=\"dense\",finish_reason=\"length\","
                               "model_name=\"tiny\"} 2\n"));
  EXPECT_THAT(after, Not(HasSubstr("junk")));
}

// Sum over the series that begin with `prefix`.
double SumOf(const std::string& metrics, const std::string& prefix) {
  double sum = 0;
  std::istringstream lines(metrics);
  for (std::string line; std::getline(lines, line);) {
    if (line.compare(0, prefix.size(), prefix) == 0) sum += std::stod(line.substr(line.rfind(' ')));
  }
  return sum;
}

TEST(MetricsServingTest, OfMemoryMessagesAndComparisonsAreTrue) {
  ServerHarness harness;
  const v1::GenerateRequest request = GreedyRequest("hello", 5);
  ASSERT_TRUE(harness.Generate(request).status.ok());
  v1::ComparePoliciesRequest comparison;
  *comparison.mutable_spec() = request.spec();
  comparison.mutable_reference()->mutable_dense();
  comparison.add_policies()->mutable_window()->set_window_tokens(4000);
  grpc::ClientContext context;
  const auto reader = harness.comparison().ComparePolicies(&context, comparison);
  v1::ComparePoliciesResponse response;
  while (reader->Read(&response)) {
  }
  ASSERT_TRUE(reader->Finish().ok());
  ASSERT_TRUE(harness.WaitForIdlePages());
  const std::string metrics = harness.Get("/metrics").second;
  const Backend& backend = harness.server().model().engine->backend();
  int64_t held = 0;
  for (int i = 0; i < kNumMemoryKinds; ++i) held += backend.MemoryBytes(static_cast<MemoryKind>(i));
  EXPECT_EQ(SumOf(metrics, "farspan_device_memory_bytes{"), static_cast<double>(held));
  EXPECT_GT(SumOf(metrics, "farspan_device_memory_bytes{device=\"cpu\",kind=\"weights\""), 0);
  EXPECT_EQ(SumOf(metrics, "farspan_grpc_message_bytes_total{direction=\"received\",method=\"Generate\""),
            static_cast<double>(request.ByteSizeLong()));
  EXPECT_GT(SumOf(metrics, "farspan_grpc_message_bytes_total{direction=\"sent\",method=\"Generate\""), 0);
  EXPECT_EQ(SumOf(metrics, "farspan_compare_equal_runs_total{attention_policy=\"window\""), 1);
  EXPECT_EQ(SumOf(metrics, "farspan_compare_runs_total{"), 1);
  EXPECT_GT(SumOf(metrics, "farspan_attention_seconds_total{"), 0);
}

}  // namespace
}  // namespace farspan
