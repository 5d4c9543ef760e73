// SPDX-License-Identifier: Apache-2.0
// Who is let in, who is told to come back and when: samples, tenants, time in the queue, and what the log says of it.
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <thread>

#include "tests/e2e/server_harness.h"

namespace farspan {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

// Slow enough to hold a place for as long as a test needs, unless it is cancelled.
constexpr char kSlowModel[] = "hash:step_us=20000";
constexpr char kTenantHeader[] = "x-farspan-tenant";

// A call that goes on until it is destroyed.
class OpenCall {
 public:
  OpenCall(ServerHarness& harness, const v1::GenerateRequest& request, const std::string& tenant = "") {
    if (!tenant.empty()) context_.AddMetadata(kTenantHeader, tenant);
    reader_ = harness.inference().Generate(&context_, request);
  }
  ~OpenCall() {
    context_.TryCancel();
    reader_->Finish();
  }
  // Waits for the call's first event.
  bool Runs() {
    v1::GenerateResponse response;
    return reader_->Read(&response);
  }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>> reader_;
};

void WaitForQueued(ServerHarness& harness, int64_t requests) {
  while (harness.server().model().engine->stats().requests_queued < requests) std::this_thread::yield();
}

Generated GenerateFor(ServerHarness& harness, const std::string& tenant, const v1::GenerateRequest& request) {
  grpc::ClientContext context;
  context.AddMetadata(kTenantHeader, tenant);
  return harness.Generate(request, &context);
}

// The lines of finished calls in the log.
std::vector<nlohmann::json> LoggedCalls(ServerHarness& harness) {
  std::vector<nlohmann::json> calls;
  std::istringstream lines(harness.Log());
  for (std::string line; std::getline(lines, line);) {
    nlohmann::json json = nlohmann::json::parse(line);
    if (json["event"] == "request") calls.push_back(std::move(json));
  }
  return calls;
}

void ExpectRefusal(const Generated& result, const std::string& reason) {
  EXPECT_EQ(result.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED) << result.status.error_message();
  EXPECT_EQ(ErrorInfoOf(result.status).reason(), reason) << result.status.error_message();
  const int64_t pushback = result.pushback_ms.empty() ? -1 : std::stoll(result.pushback_ms);
  EXPECT_GE(pushback, 50);
  EXPECT_LE(pushback, 30'000);
}

TEST(AdmissionTest, SamplesAreDrawnFromOnePromptAndEachEndsOnItsOwn) {
  ServerHarness harness({"--model", "hash:"});
  v1::GenerateRequest request = GreedyRequest("one prompt", 12);
  request.mutable_spec()->mutable_sampling()->set_n(3);
  grpc::ClientContext context;
  const auto reader = harness.inference().Generate(&context, request);
  std::map<int, std::string> texts;
  v1::GenerateResponse response;
  v1::GenerationFinished finished;
  v1::GenerationStarted started;
  while (reader->Read(&response)) {
    if (response.has_started()) started = response.started();
    if (response.has_delta()) texts[response.delta().sample_index()] += response.delta().text();
    if (response.has_finished()) finished = response.finished();
  }
  ASSERT_TRUE(reader->Finish().ok());
  EXPECT_EQ(started.sampling().n(), 3);
  ASSERT_EQ(finished.samples_size(), 3);
  EXPECT_EQ(finished.usage().generated_tokens_count(), 36);
  EXPECT_EQ(finished.usage().prompt_tokens_count(), 10) << "computed once";
  const std::string alone = harness.Generate(GreedyRequest("one prompt", 12)).text;
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(texts[i], alone) << "greedy samples are all the greedy answer";
    EXPECT_EQ(finished.samples(i).generated_tokens_count(), 12);
    EXPECT_EQ(finished.samples(i).finish_reason(), v1::FINISH_REASON_LENGTH);
  }
  EXPECT_TRUE(harness.WaitForIdlePages());
}

TEST(AdmissionTest, TooManySamplesAreRefusedByTheField) {
  ServerHarness harness({"--model", "hash:"});
  for (const int n : {9, 1'000'000, 0, -1}) {
    v1::GenerateRequest request = GreedyRequest("x", 4);
    request.mutable_spec()->mutable_sampling()->set_n(n);
    const Generated result = harness.Generate(request);
    EXPECT_EQ(result.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(result.status.error_message(),
                AllOf(HasSubstr("spec.sampling.n: must be at"), HasSubstr("got " + std::to_string(n))));
  }
  v1::ComparePoliciesRequest comparison;
  *comparison.mutable_spec() = GreedyRequest("x", 4).spec();
  comparison.mutable_spec()->mutable_sampling()->set_n(2);
  comparison.add_policies()->mutable_window();
  grpc::ClientContext context;
  EXPECT_THAT(harness.comparison().ComparePolicies(&context, comparison)->Finish().error_message(),
              HasSubstr("spec.sampling.n: must be 1 in a comparison, got 2"));
}

TEST(AdmissionTest, EverySampleTakesAPlaceInTheQueue) {
  ServerHarness harness({"--model", kSlowModel, "--max-num-seqs", "1", "--max-num-queued-reqs", "4"});
  OpenCall running(harness, GreedyRequest("hello", 4000));
  ASSERT_TRUE(running.Runs());
  v1::GenerateRequest three = GreedyRequest("hello", 4000);
  three.mutable_spec()->mutable_sampling()->set_n(3);
  OpenCall waiting(harness, three);
  WaitForQueued(harness, 3);
  three.mutable_spec()->mutable_sampling()->set_n(2);
  ExpectRefusal(harness.Generate(three), "QUEUE_FULL");
  OpenCall last(harness, GreedyRequest("hello", 4000));
  WaitForQueued(harness, 4);
  ExpectRefusal(harness.Generate(GreedyRequest("hello", 4)), "QUEUE_FULL");
}

TEST(AdmissionTest, ATenantAtItsQuotaLeavesTheQueueToOthers) {
  ServerHarness harness(
      {"--model", kSlowModel, "--max-num-seqs", "1", "--trust-tenant-header", "--max-num-queued-reqs-per-tenant", "1"});
  OpenCall running(harness, GreedyRequest("hello", 4000), "loud");
  ASSERT_TRUE(running.Runs());
  OpenCall waiting(harness, GreedyRequest("hello", 4000), "loud");
  WaitForQueued(harness, 1);
  ExpectRefusal(GenerateFor(harness, "loud", GreedyRequest("hello", 4)), "TENANT_QUOTA");
  OpenCall other(harness, GreedyRequest("hello", 4000), "quiet");
  WaitForQueued(harness, 2);
  const Generated wrong = GenerateFor(harness, std::string(65, 'a'), GreedyRequest("hello", 4));
  EXPECT_EQ(wrong.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(wrong.status.error_message(), HasSubstr("x-farspan-tenant: must have 1 to 64 bytes"));
}

TEST(AdmissionTest, ATenantThatIsNotTrustedIsNobody) {
  ServerHarness harness({"--model", kSlowModel, "--max-num-seqs", "1", "--max-num-queued-reqs-per-tenant", "1"});
  OpenCall running(harness, GreedyRequest("hello", 4000));
  ASSERT_TRUE(running.Runs());
  OpenCall waiting(harness, GreedyRequest("hello", 4000));
  WaitForQueued(harness, 1);
  ExpectRefusal(GenerateFor(harness, "someone-else", GreedyRequest("hello", 4)), "TENANT_QUOTA");
}

TEST(AdmissionTest, ARequestThatHasNotBegunInItsTimeIsGivenUp) {
  ServerHarness harness({"--model", kSlowModel, "--max-num-seqs", "1"});
  OpenCall running(harness, GreedyRequest("hello", 4000));
  ASSERT_TRUE(running.Runs());
  v1::GenerateRequest impatient = GreedyRequest("hello", 4);
  impatient.mutable_spec()->mutable_max_queue_duration()->set_nanos(30'000'000);
  ExpectRefusal(harness.Generate(impatient), "QUEUE_TIMEOUT");
}

TEST(AdmissionTest, StartedSaysHowTheRequestIsScheduled) {
  ServerHarness harness({"--model", "hash:", "--max-queue-seconds", "7"});
  v1::GenerateRequest request = GreedyRequest("hello", 2);
  v1::GenerationStarted started = harness.Generate(request).started;
  EXPECT_EQ(started.max_queue_duration().seconds(), 7);
  EXPECT_EQ(started.priority(), 0);
  EXPECT_FALSE(started.kv().bypass_prefix_cache());
  EXPECT_EQ(started.sampling().n(), 1);
  request.mutable_spec()->mutable_max_queue_duration()->set_seconds(60);
  request.mutable_spec()->set_priority(-5);
  request.mutable_spec()->mutable_kv()->set_bypass_prefix_cache(true);
  started = harness.Generate(request).started;
  EXPECT_EQ(started.max_queue_duration().seconds(), 7) << "the server's limit holds where it is shorter";
  EXPECT_EQ(started.priority(), -5);
  EXPECT_TRUE(started.kv().bypass_prefix_cache());
  request.mutable_spec()->mutable_max_queue_duration()->set_seconds(2);
  EXPECT_EQ(harness.Generate(request).started.max_queue_duration().seconds(), 2);
}

// A prompt of more than one page of the default 32 tokens.
const std::string& LongPrompt() {
  static const auto* const prompt = new std::string(200, 'p');
  return *prompt;
}

TEST(AdmissionTest, CachedPromptsAreSharedWithinATenantAndCanBeBypassed) {
  ServerHarness harness({"--model", "hash:", "--trust-tenant-header"});
  const v1::GenerateRequest request = GreedyRequest(LongPrompt(), 4);
  EXPECT_EQ(GenerateFor(harness, "a", request).finished.usage().cached_prompt_tokens_count(), 0);
  const Generated hit = GenerateFor(harness, "a", request);
  EXPECT_GE(hit.finished.usage().cached_prompt_tokens_count(), 128);
  EXPECT_EQ(hit.started.cached_prompt_tokens_count(), hit.finished.usage().cached_prompt_tokens_count());
  EXPECT_EQ(GenerateFor(harness, "b", request).finished.usage().cached_prompt_tokens_count(), 0) << "another's pages";
  v1::GenerateRequest past = request;
  past.mutable_spec()->mutable_kv()->set_bypass_prefix_cache(true);
  const Generated bypassed = GenerateFor(harness, "a", past);
  EXPECT_EQ(bypassed.finished.usage().cached_prompt_tokens_count(), 0);
  EXPECT_EQ(bypassed.text, hit.text);
}

TEST(AdmissionTest, ComparisonsRunPastThePrefixCache) {
  ServerHarness harness({"--model", "hash:"});
  harness.Generate(GreedyRequest(LongPrompt(), 4));
  ASSERT_GT(harness.Generate(GreedyRequest(LongPrompt(), 4)).finished.usage().cached_prompt_tokens_count(), 0);
  v1::ComparePoliciesRequest comparison;
  *comparison.mutable_spec() = GreedyRequest(LongPrompt(), 4).spec();
  comparison.add_policies()->mutable_window();
  grpc::ClientContext context;
  const auto reader = harness.comparison().ComparePolicies(&context, comparison);
  v1::ComparePoliciesResponse response;
  while (reader->Read(&response)) {
  }
  ASSERT_TRUE(reader->Finish().ok());
  ASSERT_EQ(response.finished().rows_size(), 2);
  for (const v1::ComparisonRow& row : response.finished().rows()) {
    EXPECT_EQ(row.finished().usage().cached_prompt_tokens_count(), 0);
    EXPECT_EQ(row.finished().kv().prefill_dense_read_bytes(),
              response.finished().rows(0).finished().kv().prefill_dense_read_bytes());
  }
}

TEST(AdmissionTest, TheLogContinuesTheCallersTraceAndKeepsTheTenantsNameToItself) {
  ServerHarness harness({"--model", "hash:", "--trust-tenant-header"});
  grpc::ClientContext context;
  context.AddMetadata(kTenantHeader, "acme-corp");
  context.AddMetadata("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
  v1::GenerateRequest request = GreedyRequest(LongPrompt(), 6);
  request.mutable_spec()->mutable_sampling()->set_n(2);
  ASSERT_TRUE(harness.Generate(request, &context).status.ok());
  v1::GenerateRequest wrong = GreedyRequest("x", -1);
  harness.Generate(wrong);
  EXPECT_THAT(harness.Log(), Not(HasSubstr("acme")));
  const std::vector<nlohmann::json> calls = LoggedCalls(harness);
  ASSERT_EQ(calls.size(), 2u);
  const nlohmann::json& line = calls[0];
  EXPECT_EQ(line["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
  EXPECT_EQ(line["parent_span_id"], "00f067aa0ba902b7");
  EXPECT_EQ(line["span_id"].get<std::string>().size(), 16u);
  EXPECT_EQ(line["trace_flags"], "01");
  EXPECT_EQ(line["tenant_hash"].get<std::string>().size(), 16u);
  EXPECT_EQ(line["code"], "OK");
  EXPECT_EQ(line["phase"], "decode");
  EXPECT_EQ(line["policy"], "dense");
  EXPECT_EQ(line["samples"], 2);
  EXPECT_EQ(line["preemptions"], 0);
  EXPECT_EQ(line["cached_tokens"], 0);
  EXPECT_EQ(line["gen_ai.operation.name"], "text_completion");
  EXPECT_EQ(line["gen_ai.request.model"], "tiny");
  EXPECT_EQ(line["gen_ai.usage.input_tokens"], 200);
  EXPECT_EQ(line["gen_ai.usage.output_tokens"], 12);
  for (const char* name : {"time_in_queue", "time_to_first_token", "time_in_model_prefill", "time_in_model_decode",
                           "time_in_model_inference", "e2e"}) {
    EXPECT_GE(line[std::string("gen_ai.latency.") + name].get<double>(), 0) << name;
  }
  const nlohmann::json& refused = calls[1];
  EXPECT_EQ(refused["code"], "INVALID_ARGUMENT");
  EXPECT_EQ(refused["reason"], "INVALID_FIELD");
  EXPECT_EQ(refused["error.type"], "INVALID_FIELD");
  EXPECT_EQ(refused["phase"], "admission");
  EXPECT_FALSE(refused.contains("parent_span_id")) << "a trace of its own";
  EXPECT_FALSE(refused.contains("tenant_hash"));
}

// gRPC's own clients retry a call only while no headers have come: that they do shows a reply of trailers alone.
TEST(AdmissionTest, ClientsThatRetryByThemselvesDoSoAfterThePushback) {
  ServerHarness harness({"--model", kSlowModel, "--max-num-seqs", "1", "--max-num-queued-reqs", "1"});
  OpenCall running(harness, GreedyRequest("hello", 4000));
  ASSERT_TRUE(running.Runs());
  OpenCall waiting(harness, GreedyRequest("hello", 4000));
  WaitForQueued(harness, 1);
  grpc::ChannelArguments arguments;
  arguments.SetServiceConfigJSON(R"({"methodConfig": [{"name": [{"service": "farspan.v1.InferenceService"}],
      "retryPolicy": {"maxAttempts": 2, "initialBackoff": "3600s", "maxBackoff": "3600s", "backoffMultiplier": 1,
                      "retryableStatusCodes": ["RESOURCE_EXHAUSTED"]}}]})");
  const auto stub = v1::InferenceService::NewStub(grpc::CreateCustomChannel(
      "127.0.0.1:" + std::to_string(harness.server().grpc_port()), grpc::InsecureChannelCredentials(), arguments));
  grpc::ClientContext context;
  const auto reader = stub->Generate(&context, GreedyRequest("hello", 4));
  // Were the pushback ignored, the second attempt would come in an hour.
  EXPECT_EQ(ErrorInfoOf(reader->Finish()).reason(), "QUEUE_FULL");
  EXPECT_EQ(LoggedCalls(harness).size(), 2u) << "two attempts";
}

}  // namespace
}  // namespace farspan
