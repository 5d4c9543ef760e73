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
    presentation_.stops.token_ids = {kTinyEndOfTextId, kTinyImEndId};
  }

  void Open() {
    stream_ = *GenerationStream::Create(presentation_, model_, listener_);
    Send(StartedEvent{});
  }
  void Send(const OutputEvent& event) {
    stream_->OnEvent(event, [this](int sample) { stopped_samples_.push_back(sample); });
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
  std::vector<int> stopped_samples_;
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
  presentation_.stops.strings = {"STOP"};
  Open();
  SendText("one STOP two three");
  EXPECT_THAT(stopped_samples_, ::testing::ElementsAre(0));
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
  presentation_.stops.strings = {"STOP"};
  presentation_.stops.include_string = true;
  Open();
  SendText("one STOP two");
  Finish(FinishReason::kStop);
  EXPECT_EQ(listener_->text, "one STOP");
}

TEST_F(GenerationStreamTest, WhatMayBecomeAStopStringIsHeldAndThenGiven) {
  presentation_.stops.strings = {"STOP"};
  Open();
  SendText("one ST");
  EXPECT_EQ(listener_->text, "one ");
  Finish(FinishReason::kLength);
  EXPECT_EQ(listener_->text, "one ST");
}

TEST_F(GenerationStreamTest, StopStringsWaitForMinTokens) {
  presentation_.stops.strings = {"ab"};
  presentation_.stops.min_tokens = 1000;
  Open();
  SendText("x ab y");
  Finish(FinishReason::kLength);
  EXPECT_THAT(stopped_samples_, ::testing::IsEmpty());
  EXPECT_EQ(listener_->text, "x ab y");
  EXPECT_EQ(listener_->finished.finish_reason(), v1::FINISH_REASON_LENGTH);
}

TEST_F(GenerationStreamTest, StopTokenIsReportedButNotItsText) {
  const TokenId letter = model_.tokenizer->Encode("z")->front();
  presentation_.stops.token_ids = {letter};
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
  presentation_.stops.token_ids = {letter};
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

TEST_F(GenerationStreamTest, EachSampleHasItsOwnTextStopAndTokens) {
  presentation_.num_samples = 3;
  presentation_.stops.strings = {"STOP"};
  Open();
  const TokenId letter = model_.tokenizer->Encode("z")->front();
  const auto send = [&](int sample, const std::string& text) {
    const std::vector<TokenId> tokens = *model_.tokenizer->Encode(text);
    for (const TokenId token : tokens) Send(NewTokensEvent{.sample = sample, .tokens = {token}});
  };
  send(2, "c ST");
  send(0, "a");
  send(1, "b STOP more");
  send(2, "ILL");
  Send(NewTokensEvent{.sample = 0, .tokens = {letter, kTinyImEndId}});
  EXPECT_THAT(stopped_samples_, ::testing::ElementsAre(1));
  FinishedEvent event{.reason = FinishReason::kStop, .stop_token = kTinyImEndId};
  event.samples = {{.reason = FinishReason::kStop, .stop_token = kTinyImEndId, .generated_tokens = 3},
                   {.reason = FinishReason::kStop, .generated_tokens = 40},
                   {.reason = FinishReason::kLength, .generated_tokens = 5}};
  event.statistics.generated_tokens = 48;
  Send(event);
  std::vector<std::string> texts(3);
  std::vector<int64_t> num_tokens(3);
  for (const v1::GenerateResponse& response : listener_->responses) {
    const auto sample = static_cast<size_t>(response.delta().sample_index());
    texts[sample] += response.delta().text();
    num_tokens[sample] += response.delta().token_ids_size();
  }
  EXPECT_THAT(texts, ::testing::ElementsAre("az", "b ", "c STILL"));
  const v1::GenerationFinished& finished = listener_->finished;
  ASSERT_EQ(finished.samples_size(), 3);
  EXPECT_EQ(finished.samples(0).stop_token_id(), kTinyImEndId);
  EXPECT_EQ(finished.samples(1).stop_string(), "STOP");
  EXPECT_EQ(finished.samples(2).finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(finished.stop_token_id(), kTinyImEndId) << "the first sample's";
  int64_t sum = 0;
  for (int i = 0; i < 3; ++i) {
    EXPECT_LE(finished.samples(i).generated_tokens_count(), num_tokens[static_cast<size_t>(i)]) << i;
    sum += finished.samples(i).generated_tokens_count();
  }
  EXPECT_EQ(finished.samples(1).generated_tokens_count(), num_tokens[1]) << "up to the stop string";
  EXPECT_EQ(finished.usage().generated_tokens_count(), sum);
}

TEST_F(GenerationStreamTest, AFailureOfOneSampleFailsTheRequestUnlessAllTextsHadEnded) {
  presentation_.num_samples = 2;
  presentation_.stops.strings = {"x"};
  Open();
  SendText("ax");
  Finish(FinishReason::kDeadline);
  EXPECT_EQ(listener_->outcome.status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_FALSE(listener_->responses.back().has_finished());
}

TEST_F(GenerationStreamTest, TimeBetweenTokensIsThatOfOneSample) {
  presentation_.num_samples = 2;
  Open();
  FinishedEvent event{.reason = FinishReason::kLength};
  event.samples = {{.reason = FinishReason::kLength, .generated_tokens = 3},
                   {.reason = FinishReason::kLength, .generated_tokens = 5}};
  event.statistics.generated_tokens = 8;
  event.statistics.first_token = event.statistics.first_step + std::chrono::seconds(1);
  event.statistics.last_token = event.statistics.first_token + std::chrono::seconds(8);
  Send(event);
  EXPECT_EQ(listener_->finished.timing().tpot_duration().seconds(), 2);
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
