// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/clients/cli_run.h"
#include "tests/clients/fake_server.h"

namespace farspan::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

using Writer = grpc::ServerWriter<v1::GenerateResponse>;

// Answers a message m with "re m".
class ChatCommandTest : public ::testing::Test {
 protected:
  ChatCommandTest() {
    server_.handlers().generate = [this](const v1::GenerateRequest& request, Writer* writer) {
      requests_.push_back(request);
      const auto& messages = request.spec().prompt().chat().messages();
      const std::string& message = messages.at(messages.size() - 1).content();
      if (message == "fail") return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "spec.prompt: too long");
      writer->Write(Delta("re " + message, {1}));
      writer->Write(Finished());
      return grpc::Status::OK;
    };
    server_.handlers().info = [](v1::GetServerInfoResponse* response) {
      response->mutable_model()->set_name("tiny");
      response->mutable_model()->set_max_context_tokens(8192);
      return grpc::Status::OK;
    };
  }

  CliResult Chat(const std::string& input, std::vector<std::string> arguments = {}) {
    cli_.input.clear();
    cli_.input.str(input);
    arguments.insert(arguments.begin(), {"chat", "--server", server_.target()});
    return cli_.Run(arguments);
  }

  // The texts of the messages that the last request held.
  std::vector<std::string> LastMessages() const {
    std::vector<std::string> texts;
    for (const auto& message : requests_.back().spec().prompt().chat().messages()) texts.push_back(message.content());
    return texts;
  }

  FakeServer server_;
  CliRun cli_;
  std::vector<v1::GenerateRequest> requests_;
};

TEST_F(ChatCommandTest, KeepsTheConversation) {
  const CliResult result = Chat("one\n\n two \n", {"--system", "Be brief.", "--temperature", "0"});
  EXPECT_EQ(result.code, ExitCode::kOk);
  EXPECT_EQ(result.out, "re one\nre two\n");
  EXPECT_EQ(result.err, "");
  EXPECT_THAT(LastMessages(), ElementsAre("Be brief.", "one", "re one", "two"));
  const auto& messages = requests_.back().spec().prompt().chat().messages();
  EXPECT_EQ(messages[0].role(), v1::ChatMessage::ROLE_SYSTEM);
  EXPECT_EQ(messages[1].role(), v1::ChatMessage::ROLE_USER);
  EXPECT_EQ(messages[2].role(), v1::ChatMessage::ROLE_ASSISTANT);
  EXPECT_EQ(requests_.back().spec().sampling().temperature(), 0);
}

TEST_F(ChatCommandTest, ResetKeepsOnlyTheSystemMessage) {
  Chat("one\n/reset\ntwo\n", {"--system", "S"});
  EXPECT_THAT(LastMessages(), ElementsAre("S", "two"));
}

TEST_F(ChatCommandTest, AttentionHoldsForLaterAnswers) {
  const CliResult result = Chat("one\n/attention window { window_tokens: 64 }\n/attention\ntwo\n");
  ASSERT_EQ(requests_.size(), 2u);
  EXPECT_FALSE(requests_[0].has_attention());
  EXPECT_EQ(requests_[1].attention().window().window_tokens(), 64);
  EXPECT_THAT(result.err, HasSubstr("window{window_tokens=64}\n"));
}

TEST_F(ChatCommandTest, WrongCommandsAreExplainedAndNotSent) {
  const CliResult result = Chat("/attention nope\n/what\n/quit\nnever sent\n");
  EXPECT_EQ(result.code, ExitCode::kOk);
  EXPECT_TRUE(requests_.empty());
  EXPECT_THAT(result.err, HasSubstr("/attention: must name one of dense, window"));
  EXPECT_THAT(result.err, HasSubstr("unknown command '/what'; /help lists the commands"));
}

TEST_F(ChatCommandTest, TwoSlashesAreAMessage) {
  Chat("//usr\n");
  EXPECT_THAT(LastMessages(), ElementsAre("/usr"));
}

TEST_F(ChatCommandTest, FailureEndsAPipedChat) {
  const CliResult result = Chat("fail\none\n");
  EXPECT_EQ(result.code, ExitCode::kRequestFailed);
  EXPECT_EQ(result.err, "farspan: request refused: spec.prompt: too long\n");
  EXPECT_EQ(requests_.size(), 1u);
}

TEST_F(ChatCommandTest, FailedMessageIsForgottenOnATerminal) {
  cli_.console.in_is_terminal = true;
  const CliResult result = Chat("fail\none\n");
  EXPECT_EQ(result.code, ExitCode::kOk);
  EXPECT_THAT(result.err, HasSubstr("tiny, context 8192 tokens"));
  EXPECT_THAT(result.err, HasSubstr("spec.prompt: too long; this message is forgotten\n"));
  EXPECT_THAT(LastMessages(), ElementsAre("one"));
}

TEST_F(ChatCommandTest, SaysAtOnceThatThereIsNoServer) {
  cli_.console.in_is_terminal = true;
  EXPECT_EQ(cli_.Run({"chat", "--server", RefusingTarget()}).code, ExitCode::kUnavailable);
}

}  // namespace
}  // namespace farspan::cli
