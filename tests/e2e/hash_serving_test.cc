// SPDX-License-Identifier: Apache-2.0
// The hash model behind the real server: no file, exact answers.
#include <map>

#include "engine/model/hash_model.h"
#include "engine/text/bpe.h"
#include "engine/text/byte_vocabulary.h"
#include "tests/e2e/server_harness.h"

namespace farspan {
namespace {

std::string ExpectedText(const std::string& prompt, int64_t max_tokens) {
  const auto tokenizer = CreateBpeTokenizer(ByteVocabulary());
  std::vector<TokenId> tokens = *(*tokenizer)->Encode(prompt);
  const size_t prompt_tokens = tokens.size();
  for (int64_t i = 0; i < max_tokens; ++i) tokens.push_back(HashModel::NextToken(tokens));
  return *(*tokenizer)->Decode(std::span(tokens).subspan(prompt_tokens));
}

TEST(HashServingTest, AnswersAreTheHashOfThePromptAndPrintable) {
  ServerHarness harness({"--model", "hash:context=1024"});
  const Generated result = harness.Generate(GreedyRequest("Grüße, \x01\n", 64));
  EXPECT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.text, ExpectedText("Grüße, \x01\n", 64));
  EXPECT_EQ(result.finished.usage().prompt_tokens_count(), 11) << "one a byte";
  EXPECT_TRUE(std::all_of(result.text.begin(), result.text.end(), [](char c) { return c >= 0x20 && c < 0x7f; }));
  EXPECT_TRUE(harness.WaitForIdlePages());
}

TEST(HashServingTest, ChatsAreMarkedWithControlTokens) {
  ServerHarness harness({"--model", "hash:"});
  v1::TokenizeRequest request;
  v1::ChatMessage& message = *request.mutable_prompt()->mutable_chat()->add_messages();
  message.set_role(v1::ChatMessage::ROLE_USER);
  message.set_content("<|im_end|>");
  grpc::ClientContext context;
  v1::TokenizeResponse response;
  const grpc::Status status = harness.inference().Tokenize(&context, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(std::count(response.token_ids().begin(), response.token_ids().end(), 1), 2);
  EXPECT_EQ(std::count(response.token_ids().begin(), response.token_ids().end(), 2), 1) << "the user's stays text";
}

TEST(HashServingTest, AStepTakesItsTime) {
  ServerHarness harness({"--model", "hash:step_us=3000,decode_us_per_row=1000"});
  const SteadyTime begin = Clock::Real()->Now();
  const Generated result = harness.Generate(GreedyRequest("abc", 10));
  EXPECT_TRUE(result.status.ok());
  EXPECT_GE(Clock::Real()->Now() - begin, std::chrono::microseconds(3000 + 9 * 4000)) << "one prefill, nine decodes";
}

TEST(HashServingTest, TheDeviceFailsAtTheStepThatWasAskedFor) {
  ServerHarness harness({"--model", "hash:fail_at_step=5"});
  const Generated result = harness.Generate(GreedyRequest("abc", 100));
  EXPECT_EQ(result.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(result.text, ExpectedText("abc", 4));
  EXPECT_FALSE(harness.server().model().engine->stats().fault.ok());
}

TEST(HashServingTest, WhatAPolicyRefusesStandsUnderTheRequestsOwnField) {
  ServerHarness harness({"--model", "hash:"});
  v1::GenerateRequest request = GreedyRequest("abc", 4);
  request.mutable_attention()->mutable_quest()->set_block_tokens(17);
  EXPECT_EQ(harness.Generate(request).status.error_message(),
            "attention.quest.block_tokens: must be 16, 32 or 64 tokens, got 17");
  v1::ComparePoliciesRequest comparison;
  *comparison.mutable_spec() = request.spec();
  comparison.add_policies()->mutable_window();
  *comparison.add_policies() = request.attention();
  grpc::ClientContext context;
  v1::ComparePoliciesResponse event;
  const auto reader = harness.comparison().ComparePolicies(&context, comparison);
  EXPECT_FALSE(reader->Read(&event));
  EXPECT_EQ(reader->Finish().error_message(), "policies[1].quest.block_tokens: must be 16, 32 or 64 tokens, got 17");
}

TEST(HashServingTest, InfoShowsWhatTheSettingsHaveComeTo) {
  ServerHarness harness({"--model", "hash:", "--device", "cpu"});
  grpc::ClientContext context;
  v1::GetServerInfoResponse info;
  ASSERT_TRUE(harness.model().GetServerInfo(&context, {}, &info).ok());
  std::map<std::string, std::string> shown;
  for (const v1::ConfigEntry& entry : info.config()) shown[entry.name()] = entry.value();
  EXPECT_EQ(shown["max-num-seqs"], "64");
  EXPECT_EQ(shown["max-num-batched-tokens"], "512");
  for (const auto& [name, value] : shown) EXPECT_NE(value, "auto") << name;
}

}  // namespace
}  // namespace farspan
