// SPDX-License-Identifier: Apache-2.0
// Each way in which a command can fail ends in its documented exit code and one sentence.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <latch>
#include <thread>

#include "clients/cli/json.h"
#include "tests/clients/cli_run.h"
#include "tests/clients/fake_server.h"

namespace farspan::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

using Writer = grpc::ServerWriter<v1::GenerateResponse>;

class FailureTest : public ::testing::Test {
 protected:
  CliResult Generate(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"generate", "--server", server_.target(), "--quiet"});
    return cli_.Run(arguments);
  }

  void Refuse(const grpc::Status& status) {
    server_.handlers().generate = [status](const v1::GenerateRequest&, Writer*) { return status; };
  }

  // Streams until the client leaves; `after_first` runs once an event was sent.
  void StreamForEver(std::function<void()> after_first) {
    server_.handlers().generate = [after_first](const v1::GenerateRequest&, Writer* writer) {
      bool first = true;
      while (writer->Write(Progress(1, 2))) {
        if (std::exchange(first, false)) after_first();
      }
      return grpc::Status::CANCELLED;
    };
  }

  FakeServer server_;
  CliRun cli_;
};

TEST_F(FailureTest, RefusedConnection) {
  const std::string target = RefusingTarget();
  const CliResult result = cli_.Run({"generate", "--server", target, "--prompt", "x"});
  EXPECT_EQ(result.code, ExitCode::kUnavailable);
  EXPECT_EQ(result.err, "farspan: cannot reach the server at " + target +
                            ": Connection refused (is farspan-server running? --server names another address)\n");
}

TEST_F(FailureTest, TheEnvironmentNamesTheServerWhereNoFlagDoes) {
  cli_.console.default_server = server_.target();
  Refuse({grpc::StatusCode::NOT_FOUND, "model: unknown"});
  EXPECT_EQ(cli_.Run({"generate", "--prompt", "x"}).err, "farspan: request refused: model: unknown\n");
}

TEST_F(FailureTest, LostServer) {
  std::latch streaming(1);
  const std::jthread crash([&] {
    streaming.wait();
    server_.Crash();
  });
  server_.handlers().generate = [&](const v1::GenerateRequest&, Writer* writer) {
    writer->Write(Delta("Hel", {1}));
    streaming.count_down();
    while (writer->Write(Progress(1, 2))) {
    }
    return grpc::Status::OK;
  };
  const CliResult result = Generate({"--prompt", "x"});
  EXPECT_EQ(result.code, ExitCode::kUnavailable) << result.err;
  EXPECT_THAT(result.err,
              StartsWith("farspan: lost the server at " + server_.target() + " before the answer was complete: "));
  EXPECT_EQ(result.out, "Hel\n");
}

TEST_F(FailureTest, Overload) {
  google::rpc::ErrorInfo info;
  info.set_reason("QUEUE_FULL");
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_nanos(1'500'000'000 % 1'000'000'000);
  retry.mutable_retry_delay()->set_seconds(1);
  Refuse(StatusWith(grpc::StatusCode::RESOURCE_EXHAUSTED, "64 requests wait, the limit", {&info, &retry}));
  const CliResult result = Generate({"--prompt", "x"});
  EXPECT_EQ(result.code, ExitCode::kOverloaded);
  EXPECT_EQ(result.err,
            "farspan: the server is overloaded (QUEUE_FULL): 64 requests wait, the limit; retry after 1.5s\n");
}

TEST_F(FailureTest, DrainingServer) {
  google::rpc::ErrorInfo info;
  info.set_reason("DRAINING");
  Refuse(StatusWith(grpc::StatusCode::UNAVAILABLE, "the server is draining", {&info}));
  const CliResult result = Generate({"--prompt", "x"});
  EXPECT_EQ(result.code, ExitCode::kUnavailable);
  EXPECT_EQ(result.err, "farspan: the server at " + server_.target() + " is not available: the server is draining\n");
}

TEST_F(FailureTest, OverLongPrompt) {
  Refuse({grpc::StatusCode::INVALID_ARGUMENT, "spec.prompt: prompt and max_tokens must fit 8192 tokens, got 9000"});
  const CliResult result = Generate({"--prompt", "x"});
  EXPECT_EQ(result.code, ExitCode::kRequestFailed);
  EXPECT_EQ(result.err,
            "farspan: request refused: spec.prompt: prompt and max_tokens must fit 8192 tokens, got 9000\n");
}

TEST_F(FailureTest, SeveralViolationsAreAllNamed) {
  google::rpc::BadRequest bad;
  for (const char* field : {"spec.sampling.top_p", "spec.stopping.max_tokens"}) {
    bad.add_field_violations()->set_field(field);
    bad.mutable_field_violations(bad.field_violations_size() - 1)->set_description("out of range");
  }
  Refuse(StatusWith(grpc::StatusCode::INVALID_ARGUMENT, "spec.sampling.top_p: out of range", {&bad}));
  EXPECT_EQ(Generate({"--prompt", "x"}).err,
            "farspan: request refused: spec.sampling.top_p: out of range; spec.stopping.max_tokens: out of range\n");
}

TEST_F(FailureTest, InternalErrorNamesTheRequest) {
  google::rpc::RequestInfo request;
  request.set_request_id("r-7");
  Refuse(StatusWith(grpc::StatusCode::INTERNAL, "logits are not finite", {&request}));
  const CliResult result = Generate({"--prompt", "x"});
  EXPECT_EQ(result.code, ExitCode::kRequestFailed);
  EXPECT_EQ(result.err, "farspan: the server failed: logits are not finite (request r-7)\n");
}

TEST_F(FailureTest, MessageAboveTheServersLimitIsNoOverload) {
  cli_.input.str(std::string(size_t{63} << 20, 'a'));
  Refuse({grpc::StatusCode::RESOURCE_EXHAUSTED, "Received message larger than max"});
  const CliResult result = Generate({"--prompt", "x"});
  EXPECT_EQ(result.code, ExitCode::kRequestFailed);
  EXPECT_THAT(result.err, HasSubstr("a message was too large"));
}

TEST_F(FailureTest, UnknownMethod) {
  const CliResult result = cli_.Run({"tokenize", "--server", server_.target(), "--prompt", "x"});
  EXPECT_EQ(result.code, ExitCode::kRequestFailed);
  EXPECT_THAT(result.err, HasSubstr("does not offer this"));
}

TEST_F(FailureTest, TimeLimit) {
  StreamForEver([] {});
  const CliResult result = Generate({"--prompt", "x", "--timeout", "0.2"});
  EXPECT_EQ(result.code, ExitCode::kDeadline);
  EXPECT_EQ(result.err, "farspan: the time limit passed\n");
}

TEST_F(FailureTest, TimeLimitReportedByTheServerSaysWhere) {
  google::rpc::ErrorInfo info;
  info.set_reason("DEADLINE");
  (*info.mutable_metadata())["phase"] = "decode";
  (*info.mutable_metadata())["tokens"] = "12";
  Refuse(StatusWith(grpc::StatusCode::DEADLINE_EXCEEDED, "deadline", {&info}));
  EXPECT_EQ(Generate({"--prompt", "x"}).err, "farspan: the time limit passed in decode after 12 tokens\n");
}

TEST_F(FailureTest, InterruptCancelsTheStream) {
  std::latch cancelled(1);
  server_.handlers().generate = [&](const v1::GenerateRequest&, Writer* writer) {
    writer->Write(Progress(1, 2));
    cli_.interrupt.Signal();
    while (writer->Write(Progress(1, 2))) {
    }
    cancelled.count_down();
    return grpc::Status::CANCELLED;
  };
  const CliResult result = Generate({"--prompt", "x"});
  EXPECT_EQ(result.code, ExitCode::kInterrupted);
  EXPECT_EQ(result.err, "farspan: interrupted\n");
  cancelled.wait();
  EXPECT_FALSE(cli_.gave_up);
}

TEST_F(FailureTest, InterruptWithNothingRunningGivesUp) {
  cli_.interrupt.Signal();
  EXPECT_TRUE(cli_.gave_up);
}

TEST_F(FailureTest, SecondInterruptGivesUp) {
  const Interrupt::Action action(&cli_.interrupt);
  cli_.interrupt.Signal();
  EXPECT_TRUE(action.interrupted());
  EXPECT_FALSE(cli_.gave_up);
  cli_.interrupt.Signal();
  EXPECT_TRUE(cli_.gave_up);
}

TEST_F(FailureTest, StreamWithoutItsLastEvent) {
  server_.handlers().generate = [](const v1::GenerateRequest&, Writer* writer) {
    writer->Write(Delta("a", {1}));
    return grpc::Status::OK;
  };
  const CliResult result = Generate({"--prompt", "x"});
  EXPECT_EQ(result.code, ExitCode::kRequestFailed);
  EXPECT_EQ(result.err, "farspan: the server ended the stream without its last event\n");
}

TEST_F(FailureTest, JsonHoldsTheErrorAndWhatHadArrived) {
  server_.handlers().generate = [](const v1::GenerateRequest&, Writer* writer) {
    writer->Write(Delta("ab", {1, 2}));
    return grpc::Status(grpc::StatusCode::INTERNAL, "boom");
  };
  const Json json = Json::parse(Generate({"--prompt", "x", "--json"}).out);
  EXPECT_EQ(json["text"], "ab");
  EXPECT_EQ(json["token_ids"].dump(), "[1,2]");
  EXPECT_EQ(json["error"], "the server failed: boom");
}

TEST_F(FailureTest, ErrorsAreEscapedOnATerminal) {
  Refuse({grpc::StatusCode::INVALID_ARGUMENT, "bad \x1b[2J"});
  EXPECT_THAT(Generate({"--prompt", "x"}).err, HasSubstr("bad \x1b[2J"));
  cli_.console.err_is_terminal = true;
  EXPECT_THAT(Generate({"--prompt", "x"}).err, HasSubstr("bad \\x1b[2J"));
}

TEST_F(FailureTest, UnreadableFiles) {
  const CliResult missing = Generate({"--prompt-file", "/nonexistent/prompt.txt"});
  EXPECT_EQ(missing.code, ExitCode::kNoInput);
  EXPECT_EQ(missing.err, "farspan: cannot read '/nonexistent/prompt.txt': No such file or directory\n");
  const CliResult folder = Generate({"--prompt-file", "/"});
  EXPECT_EQ(folder.code, ExitCode::kNoInput);
  EXPECT_EQ(folder.err, "farspan: cannot read '/': Is a directory\n");
}

TEST_F(FailureTest, FilesThatDoNotHoldWhatTheyShould) {
  const auto refused = [&](const std::string& flag, const std::string& content, const std::string& message) {
    cli_.input.clear();
    cli_.input.str(content);
    const CliResult result = Generate({flag, "-"});
    EXPECT_EQ(result.code, ExitCode::kBadInput) << content;
    EXPECT_EQ(result.err, "farspan: " + message + "\n");
  };
  const std::string array = "'-': must hold an array of token ids, or an object with one under \"token_ids\"";
  const std::string shape = R"(must be {"role": "system", "user" or "assistant", "content": "..."})";
  refused("--prompt-tokens-file", "[1, 2", "'-': is not valid JSON");
  refused("--prompt-tokens-file", "", "'-': is not valid JSON");
  refused("--prompt-tokens-file", "{}", array);
  refused("--prompt-tokens-file", "7", array);
  refused("--prompt-tokens-file", "[1, -2]", "'-': element 1 must be a token id, got '-2'");
  refused("--prompt-tokens-file", "[1.5]", "'-': element 0 must be a token id, got '1.5'");
  refused("--prompt-tokens-file", "[18446744073709551615]",
          "'-': element 0 must be a token id, got '18446744073709551615'");
  refused("--chat-file", "[", "'-': is not valid JSON");
  refused("--chat-file", "{}", "'-': each element of an array " + shape);
  refused("--chat-file", R"([{"role": "user"}])", "'-': element 0 " + shape);
  refused("--chat-file", R"([{"role": "tool", "content": "x"}])", "'-': element 0 " + shape);
}

TEST_F(FailureTest, WrongUse) {
  const auto refused = [&](std::vector<std::string> arguments, const std::string& message) {
    const CliResult result = cli_.Run(arguments);
    EXPECT_EQ(result.code, ExitCode::kUsage);
    EXPECT_EQ(result.err, "farspan: " + message + "\n");
    EXPECT_EQ(result.out, "");
  };
  const std::string sources =
      "exactly one of --prompt, --prompt-file, --prompt-tokens-file and --chat-file must be given, got ";
  refused({"generate"}, sources + "none");
  refused({"generate", "--prompt", "a", "--prompt-file", "b"}, sources + "2");
  refused({"generate", "--prompt", "a", "--system", "b"}, "--system: needs --chat");
  refused({"generate", "--prompt-tokens-file", "a", "--chat"}, "--chat: needs --prompt or --prompt-file");
  refused({"generate", "--prompt", "a", "--timeout", "0"},
          "--timeout: must be above 0 and at most 10000000 seconds, got '0'");
  refused({"generate", "--prompt", "a", "--server", "localhost"},
          "server address: must be HOST:PORT or unix:PATH, got 'localhost'");
  refused({"generate", "--tempratur", "1"}, "unknown flag '--tempratur', did you mean --temperature?");
  refused({"generat"}, "unknown command 'generat', did you mean generate?");
  refused({"--server", "a:1", "info"}, "unknown flag '--server' before the command; flags follow the command");
  refused({"compare", "--prompt", "a"}, "--attention: must be given at least once");
  refused(
      {"generate", "--prompt", "a", "--attention", "windw"},
      "--attention: must name one of dense, window, quest, with options as in 'window { window_tokens: 1024 }', got "
      "'windw' (did you mean window?)");
  refused({"generate", "--prompt", "a", "--attention", "window { window_tokens: 0 }"},
          "--attention: window.window_tokens: must be between 1 and 16777216, got 0");
}

TEST_F(FailureTest, OutputThatCannotBeWritten) {
  server_.handlers().generate = [](const v1::GenerateRequest&, Writer* writer) {
    while (writer->Write(Delta("a", {1}))) {
    }
    return grpc::Status::CANCELLED;
  };
  std::ofstream full("/dev/full");
  Console console{.in = cli_.input, .out = full, .err = cli_.console.err, .interrupt = cli_.interrupt};
  EXPECT_EQ(RunFarspan({"generate", "--server", server_.target(), "--prompt", "x"}, &console),
            static_cast<int>(ExitCode::kOutputFailed));
}

TEST_F(FailureTest, HelpListsEveryExitCode) {
  const CliResult result = cli_.Run({"--help"});
  EXPECT_EQ(result.code, ExitCode::kOk);
  for (const ExitCodeDoc& doc : ExitCodeDocs()) {
    EXPECT_THAT(result.out, HasSubstr(std::string(doc.meaning)));
  }
}

TEST_F(FailureTest, EveryCommandHasHelpWithExamples) {
  for (const auto& command : AllCommands()) {
    const CliResult result = cli_.Run({command->name(), "--help"});
    EXPECT_EQ(result.code, ExitCode::kOk);
    EXPECT_THAT(result.out, HasSubstr("Examples:\n  farspan " + command->name()));
    EXPECT_THAT(result.out, HasSubstr("--server HOST:PORT"));
  }
}

TEST_F(FailureTest, VersionIsOneLine) { EXPECT_THAT(cli_.Run({"--version"}).out, StartsWith("farspan ")); }

}  // namespace
}  // namespace farspan::cli
