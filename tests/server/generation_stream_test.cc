// SPDX-License-Identifier: Apache-2.0
#include "server/generation_stream.h"

#include <gmock/gmock.h>

#include "engine/model/gguf.h"
#include "engine/model/gguf_vocabulary.h"
#include "engine/text/bpe.h"
#include "engine/text/utf8.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tiny_checkpoint.h"

namespace farspan {
namespace {

class RecordingListener final : public GenerationListener {
 public:
  void OnResponse(v1::GenerateResponse response) override {
    if (response.has_delta()) {
      text += response.delta().text();
      tokens.insert(tokens.end(), response.delta().token_ids().begin(), response.delta().token_ids().end());
    }
    if (response.has_finished()) finished = response.finished();
    responses.push_back(std::move(response));
  }
  void OnEnd(const GenerationOutcome& end) override {
    ++num_ends;
    outcome = end;
  }

  std::vector<v1::GenerateResponse> responses;
  std::string text;
  std::vector<TokenId> tokens;
  v1::GenerationFinished finished;
  GenerationOutcome outcome;
  int num_ends = 0;
};

class GenerationStreamTest : public ::testing::Test {
 protected:
  GenerationStreamTest() : listener_(std::make_shared<RecordingListener>()) {
    const TinyCheckpoint checkpoint;
    const GgufFile file = *GgufFile::Open(checkpoint.path());
    Vocabulary vocabulary = *ReadGgufVocabulary(file.metadata());
    model_.tokenizer = *CreateBpeTokenizer(std::move(vocabulary));
    presentation_.stop_token_ids = {kTinyEndOfTextId, kTinyImEndId};
  }

  void Open() {
    stream_ = *GenerationStream::Create(presentation_, model_, listener_);
    Send(StartedEvent{});
  }
  void Send(const OutputEvent& event) {
    stream_->OnEvent(event, [this](int) { ++num_cancels_; });
  }
  void SendText(const std::string& text) {
    const std::vector<TokenId> tokens = *model_.tokenizer->Encode(text);
    for (const TokenId token : tokens) SendToken(token);
  }
  void SendToken(TokenId token) {
    ++num_sent_;
    Send(NewTokensEvent{.tokens = {token}});
  }
  void Finish(FinishReason reason, std::optional<TokenId> stop_token = std::nullopt, absl::Status status = {}) {
    FinishedEvent event{.reason = reason, .status = std::move(status), .stop_token = stop_token};
    event.statistics.generated_tokens = num_sent_;
    Send(event);
  }

  ServedModel model_;
  Presentation presentation_;
  const std::shared_ptr<RecordingListener> listener_;
  std::unique_ptr<GenerationStream> stream_;
  int num_cancels_ = 0;
  int64_t num_sent_ = 0;
};

TEST_F(GenerationStreamTest, TextOfTokensUpToTheLimit) {
  Open();
  SendText("hello w\xC3\xB6rld");
  Finish(FinishReason::kLength);
  EXPECT_EQ(listener_->text, "hello w\xC3\xB6rld");
  EXPECT_EQ(listener_->finished.finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(listener_->finished.usage().generated_tokens_count(), num_sent_);
  EXPECT_EQ(listener_->num_ends, 1);
  EXPECT_TRUE(listener_->outcome.status.ok());
}

TEST_F(GenerationStreamTest, StopStringEndsTheTextBeforeItAndCancelsOnce) {
  presentation_.stop_strings = {"STOP"};
  Open();
  SendText("one STOP two three");
  EXPECT_EQ(num_cancels_, 1);
  EXPECT_EQ(listener_->text, "one ");
  const size_t tokens_at_match = listener_->tokens.size();
  SendText("more");
  // The engine ran on for a step or two and may even have reached a limit.
  Finish(FinishReason::kLength);
  EXPECT_EQ(listener_->text, "one ");
  EXPECT_EQ(listener_->tokens.size(), tokens_at_match);
  EXPECT_EQ(listener_->finished.finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(listener_->finished.stop_string(), "STOP");
  EXPECT_EQ(listener_->finished.usage().generated_tokens_count(), static_cast<int64_t>(tokens_at_match));
  EXPECT_TRUE(listener_->outcome.status.ok());
}

TEST_F(GenerationStreamTest, StopStringIsKeptWhereAskedFor) {
  presentation_.stop_strings = {"STOP"};
  presentation_.include_stop_string = true;
  Open();
  SendText("one STOP two");
  Finish(FinishReason::kStop);
  EXPECT_EQ(listener_->text, "one STOP");
}

TEST_F(GenerationStreamTest, WhatMayBecomeAStopStringIsHeldAndThenGiven) {
  presentation_.stop_strings = {"STOP"};
  Open();
  SendText("one ST");
  EXPECT_EQ(listener_->text, "one ");
  Finish(FinishReason::kLength);
  EXPECT_EQ(listener_->text, "one ST");
}

TEST_F(GenerationStreamTest, StopStringsWaitForMinTokens) {
  presentation_.stop_strings = {"ab"};
  presentation_.min_tokens = 1000;
  Open();
  SendText("x ab y");
  Finish(FinishReason::kLength);
  EXPECT_EQ(num_cancels_, 0);
  EXPECT_EQ(listener_->text, "x ab y");
  EXPECT_EQ(listener_->finished.finish_reason(), v1::FINISH_REASON_LENGTH);
}

TEST_F(GenerationStreamTest, StopTokenIsReportedButNotItsText) {
  const TokenId letter = model_.tokenizer->Encode("z")->front();
  presentation_.stop_token_ids = {letter};
  Open();
  SendText("a");
  SendToken(letter);
  Finish(FinishReason::kStop, letter);
  EXPECT_EQ(listener_->text, "a");
  EXPECT_EQ(listener_->tokens.back(), letter);
  EXPECT_EQ(listener_->finished.stop_token_id(), letter);
}

TEST_F(GenerationStreamTest, StopTokenThatDidNotStopIsText) {
  const TokenId letter = model_.tokenizer->Encode("z")->front();
  presentation_.stop_token_ids = {letter};
  Open();
  SendToken(letter);
  SendText("a");
  SendToken(letter);
  Finish(FinishReason::kLength);
  EXPECT_EQ(listener_->text, "zaz");
}

TEST_F(GenerationStreamTest, EveryPieceIsWholeCharacters) {
  Open();
  const std::string text = "\xF0\x9F\x98\x80\xE2\x82\xAC";
  for (const char byte : text) {
    TokenId token = kTinyFirstByteId;
    while (model_.tokenizer->TokenBytes(token) != std::string(1, byte)) ++token;
    SendToken(token);
  }
  Finish(FinishReason::kLength);
  for (const v1::GenerateResponse& response : listener_->responses) {
    EXPECT_EQ(FindInvalidUtf8(response.delta().text()), std::nullopt);
  }
  EXPECT_EQ(listener_->text, text);
}

TEST_F(GenerationStreamTest, FailureEndsWithItsStatusAndNoFinishedEvent) {
  Open();
  SendText("partial");
  Finish(FinishReason::kDeadline, std::nullopt, absl::DeadlineExceededError(""));
  EXPECT_EQ(listener_->text, "partial");
  EXPECT_FALSE(listener_->responses.back().has_finished());
  EXPECT_EQ(listener_->outcome.status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(listener_->num_ends, 1);
}

TEST_F(GenerationStreamTest, PromptLogprobsBeginWithTheTokenThatNothingPredicts) {
  presentation_.reports_prompt_logprobs = true;
  Open();
  Send(PrefillProgressEvent{.done_tokens = 2, .total_tokens = 3, .prompt_logprobs = {{.chosen = {5, -1.5f}}}});
  Send(PrefillProgressEvent{.done_tokens = 3, .total_tokens = 3, .prompt_logprobs = {{.chosen = {6, -2.5f}}}});
  const v1::GenerationProgress& first = listener_->responses.at(1).progress();
  ASSERT_EQ(first.prompt_logprobs_size(), 2);
  EXPECT_FALSE(first.prompt_logprobs(0).has_chosen());
  EXPECT_EQ(first.prompt_logprobs(1).chosen().token_id(), 5);
  EXPECT_EQ(listener_->responses.at(2).progress().prompt_logprobs_size(), 1);
}

}  // namespace
}  // namespace farspan
