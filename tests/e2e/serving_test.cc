// SPDX-License-Identifier: Apache-2.0
// What a client of a serving server sees: answers, refusals, limits, nothing leaked.
#include <cmath>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <thread>

#include "grpc/health/v1/health.grpc.pb.h"
#include "tests/e2e/server_harness.h"

namespace farspan {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

grpc::health::v1::HealthCheckResponse::ServingStatus HealthOf(ServerHarness& harness, const std::string& service) {
  grpc::ClientContext context;
  grpc::health::v1::HealthCheckRequest request;
  request.set_service(service);
  grpc::health::v1::HealthCheckResponse response;
  grpc::health::v1::Health::NewStub(harness.channel())->Check(&context, request, &response);
  return response.status();
}

// Answer to "list services" of reflection, raw; empty when there is none.
std::string ReflectedServices(ServerHarness& harness) {
  // ServerReflectionRequest { list_services: "*" }
  const grpc::Slice slice(std::string("\x3a\x01*"));
  grpc::ByteBuffer request(&slice, 1);
  grpc::ClientContext context;
  const grpc::internal::RpcMethod method("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                                         grpc::internal::RpcMethod::BIDI_STREAMING);
  const std::unique_ptr<grpc::ClientReaderWriter<grpc::ByteBuffer, grpc::ByteBuffer>> stream(
      grpc::internal::ClientReaderWriterFactory<grpc::ByteBuffer, grpc::ByteBuffer>::Create(harness.channel().get(),
                                                                                            method, &context));
  stream->Write(request);
  stream->WritesDone();
  grpc::ByteBuffer response;
  std::string text;
  if (stream->Read(&response)) {
    std::vector<grpc::Slice> slices;
    response.Dump(&slices);
    for (const grpc::Slice& part : slices) text.append(reinterpret_cast<const char*>(part.begin()), part.size());
  }
  stream->Finish();
  return text;
}

TEST(ServingTest, GeneratesWithEffectiveValuesAndStatistics) {
  ServerHarness harness;
  v1::GenerateRequest request = GreedyRequest("hello world", 8);
  request.mutable_spec()->set_client_request_id("mine");
  request.mutable_attention()->mutable_window();
  const Generated result = harness.Generate(request);
  ASSERT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.token_ids.size(), 8u);
  EXPECT_EQ(result.started.client_request_id(), "mine");
  EXPECT_EQ(result.started.model(), "tiny");
  EXPECT_TRUE(result.started.sampling().has_seed());
  EXPECT_EQ(result.started.attention().window().window_tokens(), 1024);
  EXPECT_EQ(result.started.attention().window().sink_tokens(), 4);
  EXPECT_EQ(result.finished.finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(result.finished.usage().generated_tokens_count(), 8);
  EXPECT_GT(result.finished.kv().decode_read_bytes(), 0);
  EXPECT_EQ(result.finished.kv().mode(), v1::ATTENTION_MODE_TRAINING_FREE);
  EXPECT_FALSE(result.finished.system_fingerprint().empty());
}

TEST(ServingTest, AbsentMaxTokensIsTheRestOfTheContext) {
  ServerHarness harness({"--max-model-len", "40"});
  v1::GenerateRequest request = GreedyRequest("hello", 1);
  request.mutable_spec()->mutable_stopping()->clear_max_tokens();
  const Generated result = harness.Generate(request);
  ASSERT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.started.stopping().max_tokens(), 40 - result.started.prompt_tokens_count());
  EXPECT_EQ(static_cast<int64_t>(result.token_ids.size()), result.started.stopping().max_tokens());
}

TEST(ServingTest, RefusalsNameTheFieldAndComeAsTrailersAlone) {
  ServerHarness harness({"--max-model-len", "64"});
  const auto expect = [&](const v1::GenerateRequest& request, grpc::StatusCode code, const std::string& reason,
                          const std::string& words) {
    const Generated result = harness.Generate(request);
    EXPECT_EQ(result.status.error_code(), code) << result.status.error_message();
    EXPECT_THAT(result.status.error_message(), HasSubstr(words));
    EXPECT_EQ(ErrorInfoOf(result.status).reason(), reason);
    EXPECT_EQ(ErrorInfoOf(result.status).domain(), "farspan");
    EXPECT_FALSE(result.saw_initial_metadata);
  };
  const auto invalid = grpc::StatusCode::INVALID_ARGUMENT;
  v1::GenerateRequest request = GreedyRequest("abc\xFF", 4);
  expect(request, invalid, "INVALID_FIELD", "prompt.text: invalid UTF-8 at byte 3");
  request = GreedyRequest("abc", 0);
  expect(request, invalid, "INVALID_FIELD", "spec.stopping.max_tokens: must be at least 1");
  request = GreedyRequest("abc", 4000);
  expect(request, invalid, "PROMPT_TOO_LONG", "context of 64 tokens, got 3 and 4000");
  request = GreedyRequest(std::string(64, 'a'), 1);
  expect(request, invalid, "PROMPT_TOO_LONG", "spec.prompt: must be shorter than the context of 64 tokens, got 64");
  request = GreedyRequest("abc", 4);
  request.mutable_spec()->set_model("../../etc/passwd");
  expect(request, grpc::StatusCode::NOT_FOUND, "MODEL_NOT_FOUND", "spec.model: not served here");
  request = GreedyRequest("", 4);
  request.mutable_spec()->mutable_prompt()->mutable_tokens()->add_ids(1 << 20);
  expect(request, invalid, "INVALID_FIELD", "spec.prompt.tokens.ids[0]: must be from 0 to");
  request = GreedyRequest("abc", 4);
  request.mutable_attention();
  expect(request, invalid, "INVALID_FIELD", "attention: must hold one of dense, window");
  request = GreedyRequest("abc", 4);
  request.mutable_spec()->mutable_sampling()->set_top_p(std::nan(""));
  expect(request, invalid, "INVALID_FIELD", "spec.sampling.top_p: must be a finite number");
  expect(v1::GenerateRequest(), invalid, "INVALID_FIELD", "spec: must be set");
}

TEST(ServingTest, MessagesOverTheLimitAreRefusedByUsWithTheNumbers) {
  ServerHarness harness({"--max-request-bytes", "2048"});
  const Generated result = harness.Generate(GreedyRequest(std::string(3000, 'a'), 4));
  EXPECT_EQ(result.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(ErrorInfoOf(result.status).reason(), "REQUEST_TOO_LARGE");
}

TEST(ServingTest, StopStringEndsTheTextAndIsNamed) {
  ServerHarness harness;
  const Generated whole = harness.Generate(GreedyRequest("hello world", 24));
  ASSERT_TRUE(whole.status.ok());
  // A piece of what it says anyway: whole characters from the middle of the text.
  size_t begin = whole.text.size() / 2;
  while (begin < whole.text.size() && (static_cast<unsigned char>(whole.text[begin]) & 0xC0) == 0x80) ++begin;
  const std::string stop = whole.text.substr(begin, 4);
  v1::GenerateRequest request = GreedyRequest("hello world", 24);
  request.mutable_spec()->mutable_stopping()->add_stop_strings(stop);
  const Generated result = harness.Generate(request);
  if (result.status.error_code() == grpc::StatusCode::INVALID_ARGUMENT) GTEST_SKIP() << "the cut is no whole character";
  EXPECT_EQ(result.finished.finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(result.finished.stop_string(), stop);
  EXPECT_EQ(result.text, whole.text.substr(0, whole.text.find(stop)));
}

TEST(ServingTest, CancelAndDeadlineFreeThePages) {
  ServerHarness harness;
  {
    grpc::ClientContext context;
    const auto reader = harness.inference().Generate(&context, GreedyRequest("hello", 4000));
    v1::GenerateResponse response;
    ASSERT_TRUE(reader->Read(&response));
    context.TryCancel();
    while (reader->Read(&response)) {
    }
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  EXPECT_TRUE(harness.WaitForIdlePages());
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(100));
  EXPECT_EQ(harness.Generate(GreedyRequest("hello", 4000), &context).status.error_code(),
            grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(harness.WaitForIdlePages());
  // The client's end of the call reaches the server before its own clock says so.
  const std::string call = R"(farspan_grpc_requests_total{code="DEADLINE_EXCEEDED",method="Generate",)";
  const auto counted = [&] {
    const std::string metrics = harness.Get("/metrics").second;
    const size_t start = metrics.find(call);
    return start != std::string::npos && metrics.substr(start, metrics.find('\n', start) - start).ends_with("} 1");
  };
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (!counted() && std::chrono::steady_clock::now() < give_up) std::this_thread::yield();
  EXPECT_TRUE(counted());
}

TEST(ServingTest, AFullQueueRefusesAtOnceAndSaysWhenToComeBack) {
  ServerHarness harness({"--max-num-seqs", "1", "--max-num-queued-reqs", "1"});
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>>> readers;
  for (int i = 0; i < 2; ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    readers.push_back(harness.inference().Generate(contexts.back().get(), GreedyRequest("hello", 4000)));
    // The first one runs before the second is sent, which then waits.
    v1::GenerateResponse response;
    if (i == 0) {
      ASSERT_TRUE(readers[0]->Read(&response));
    }
  }
  while (harness.server().model().engine->stats().requests_queued == 0) std::this_thread::yield();
  const Generated refused = harness.Generate(GreedyRequest("hello", 4));
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(ErrorInfoOf(refused.status).reason(), "QUEUE_FULL");
  EXPECT_FALSE(refused.pushback_ms.empty());
  EXPECT_FALSE(refused.saw_initial_metadata);
  for (const auto& context : contexts) context->TryCancel();
  for (const auto& reader : readers) reader->Finish();
  EXPECT_TRUE(harness.WaitForIdlePages());
}

TEST(ServingTest, OneConnectionHasAShareOfCalls) {
  ServerHarness harness({"--max-streams-per-connection", "1"});
  grpc::ClientContext context;
  const auto reader = harness.inference().Generate(&context, GreedyRequest("hello", 4000));
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(ErrorInfoOf(harness.Generate(GreedyRequest("hello", 4)).status).reason(), "CONNECTION_LIMIT");
  context.TryCancel();
  reader->Finish();
}

TEST(ServingTest, ThirtyTwoStreamsWithRandomCancelsSayWhatEachSaysAlone) {
  ServerHarness harness({"--max-num-seqs", "8"});
  constexpr int kStreams = 32;
  const auto request = [](int i) {
    v1::GenerateRequest stream = GreedyRequest("prompt number " + std::to_string(i % 7), 8 + i % 5);
    if (i % 2 == 1) stream.mutable_attention()->mutable_window()->set_window_tokens(8);
    return stream;
  };
  std::vector<Generated> alone;
  for (int i = 0; i < kStreams; ++i) alone.push_back(harness.Generate(request(i)));
  std::vector<Generated> together(kStreams);
  std::vector<std::thread> threads;
  for (int i = 0; i < kStreams; ++i) {
    threads.emplace_back([&, i] {
      grpc::ClientContext context;
      if (i % 4 != 3) {
        together[static_cast<size_t>(i)] = harness.Generate(request(i), &context);
        return;
      }
      std::minstd_rand random(static_cast<uint32_t>(i));
      const auto reader = harness.inference().Generate(&context, GreedyRequest("to be cancelled", 2000));
      v1::GenerateResponse response;
      for (int reads = static_cast<int>(random() % 6); reads > 0 && reader->Read(&response); --reads) {
      }
      context.TryCancel();
      together[static_cast<size_t>(i)].status = reader->Finish();
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int i = 0; i < kStreams; ++i) {
    const Generated& result = together[static_cast<size_t>(i)];
    if (i % 4 == 3) {
      EXPECT_EQ(result.status.error_code(), grpc::StatusCode::CANCELLED);
      continue;
    }
    EXPECT_TRUE(result.status.ok()) << result.status.error_message();
    EXPECT_EQ(result.token_ids, alone[static_cast<size_t>(i)].token_ids) << i;
    EXPECT_EQ(result.text, alone[static_cast<size_t>(i)].text) << i;
  }
  EXPECT_TRUE(harness.WaitForIdlePages());
}

TEST(ServingTest, ComparisonEndsInATableWithTheReferenceFirst) {
  ServerHarness harness;
  for (const bool concurrent : {false, true}) {
    v1::ComparePoliciesRequest request;
    *request.mutable_spec() = GreedyRequest("a prompt that is longer than the window", 12).spec();
    request.mutable_spec()->mutable_sampling()->clear_temperature();
    request.add_policies()->mutable_window()->set_window_tokens(4);
    request.add_policies()->mutable_window()->set_window_tokens(4096);
    request.set_concurrent(concurrent);
    grpc::ClientContext context;
    const auto reader = harness.comparison().ComparePolicies(&context, request);
    v1::ComparePoliciesResponse response;
    v1::ComparisonFinished table;
    std::vector<std::string> streamed(3);
    while (reader->Read(&response)) {
      if (response.has_finished()) table = response.finished();
      if (response.run().phase() != v1::PolicyRunEvent::PHASE_GENERATE) continue;
      streamed[static_cast<size_t>(response.run().row_index())] += response.run().event().delta().text();
      EXPECT_EQ(response.run().event().delta().logprobs_size(), 0) << "not asked for";
    }
    ASSERT_TRUE(reader->Finish().ok());
    ASSERT_EQ(table.rows_size(), 3);
    for (int i = 0; i < 3; ++i) {
      EXPECT_EQ(table.rows(i).text(), streamed[static_cast<size_t>(i)]);
      EXPECT_EQ(table.rows(i).token_ids_size(), 12);
      EXPECT_LT(table.rows(i).reference_mean_logprob(), 0);
    }
    EXPECT_TRUE(table.rows(0).attention().has_dense());
    EXPECT_EQ(table.rows(0).token_agreement_ratio(), 1);
    EXPECT_LT(table.rows(1).finished().kv().decode_read_bytes(), table.rows(0).finished().kv().decode_read_bytes());
    // A window that covers the context is dense, to the bit.
    EXPECT_EQ(table.rows(2).text(), table.rows(0).text());
    EXPECT_FALSE(table.rows(2).has_first_divergence_index());
    EXPECT_EQ(table.rows(2).reference_mean_logprob(), table.rows(0).reference_mean_logprob());
  }
  EXPECT_TRUE(harness.WaitForIdlePages());
}

TEST(ServingTest, TextAndTokensGoBothWays) {
  ServerHarness harness;
  v1::TokenizeRequest tokenize;
  tokenize.mutable_prompt()->set_text("h\xC3\xA9llo <|im_end|>");
  v1::TokenizeResponse tokens;
  grpc::ClientContext first;
  ASSERT_TRUE(harness.inference().Tokenize(&first, tokenize, &tokens).ok());
  EXPECT_THAT(tokens.token_ids(), Not(::testing::Contains(kTinyImEndId))) << "markers in a text stay text";
  v1::DetokenizeRequest detokenize;
  *detokenize.mutable_token_ids() = tokens.token_ids();
  v1::DetokenizeResponse text;
  grpc::ClientContext second;
  ASSERT_TRUE(harness.inference().Detokenize(&second, detokenize, &text).ok());
  EXPECT_EQ(text.text(), "h\xC3\xA9llo <|im_end|>");
  grpc::ClientContext third;
  const grpc::Status status = harness.inference().Detokenize(&third, v1::DetokenizeRequest(), &text);
  EXPECT_THAT(status.error_message(), StartsWith("token_ids: must have at least one element"));
}

TEST(ServingTest, DescribesItselfAndItsPolicies) {
  ServerHarness harness({"--max-model-len", "512"});
  grpc::ClientContext first;
  v1::GetServerInfoResponse info;
  ASSERT_TRUE(harness.model().GetServerInfo(&first, {}, &info).ok());
  EXPECT_EQ(info.model().name(), "tiny");
  EXPECT_EQ(info.model().max_context_tokens(), 512);
  EXPECT_TRUE(info.model().chat_supported());
  EXPECT_GT(info.config_size(), 20);
  grpc::ClientContext second;
  v1::ListAttentionPoliciesResponse policies;
  ASSERT_TRUE(harness.model().ListAttentionPolicies(&second, {}, &policies).ok());
  ASSERT_EQ(policies.policies_size(), v1::AttentionSpec::descriptor()->oneof_decl(0)->field_count());
  for (const v1::AttentionPolicyInfo& policy : policies.policies()) EXPECT_TRUE(policy.supported()) << policy.name();
}

TEST(ServingTest, HealthOfTheServerAndOfEachService) {
  ServerHarness harness;
  for (const char* service :
       {"", "farspan.v1.InferenceService", "farspan.v1.ComparisonService", "farspan.v1.ModelService"}) {
    EXPECT_EQ(HealthOf(harness, service), grpc::health::v1::HealthCheckResponse::SERVING) << service;
  }
  EXPECT_EQ(harness.Get("/readyz").first, 200);
  EXPECT_EQ(harness.Get("/livez").first, 200);
  EXPECT_EQ(harness.Get("/etc/passwd").first, 404);
}

TEST(ServingTest, ReflectionCanBeOnAndOff) {
  ServerHarness with;
  EXPECT_THAT(ReflectedServices(with), HasSubstr("farspan.v1.InferenceService"));
  ServerHarness without({"--no-reflection"});
  EXPECT_EQ(ReflectedServices(without), "");
}

TEST(ServingTest, WhatClientsSayAppearsInNoLogAndNoMetric) {
  ServerHarness harness;
  const std::string canary = "canary-5f3a";
  v1::GenerateRequest request = GreedyRequest(canary, 4);
  request.mutable_spec()->mutable_stopping()->add_stop_strings(canary);
  request.mutable_spec()->set_client_request_id(canary);
  grpc::ClientContext context;
  context.AddMetadata("x-canary", canary);
  EXPECT_TRUE(harness.Generate(request, &context).status.ok());
  request.mutable_spec()->set_model(canary);
  harness.Generate(request);
  request.mutable_spec()->mutable_stopping()->set_max_tokens(-1);
  harness.Generate(request);
  const std::string log = harness.Log();
  EXPECT_THAT(log, HasSubstr("\"method\":\"Generate\""));
  EXPECT_THAT(log, Not(HasSubstr(canary)));
  EXPECT_THAT(harness.Get("/metrics").second, Not(HasSubstr(canary)));
  std::istringstream lines(log);
  for (std::string line; std::getline(lines, line);) EXPECT_TRUE(nlohmann::json::accept(line)) << line;
}

}  // namespace
}  // namespace farspan
