// SPDX-License-Identifier: Apache-2.0
// The farspan program as a process: signals, pipes and terminals.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <spawn.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <latch>
#include <string>
#include <vector>

#include "tests/clients/fake_server.h"

namespace farspan {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

using Writer = grpc::ServerWriter<v1::GenerateResponse>;

// A started program. `output` is what it reads and writes: a terminal's other side, or the end of a pipe.
struct Process {
  pid_t pid = 0;
  int output = -1;
};

Process Spawn(std::vector<std::string> arguments, posix_spawn_file_actions_t* actions, int output,
              const std::vector<std::string>& environment) {
  arguments.insert(arguments.begin(), FARSPAN_CLI_PATH);
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  std::vector<std::string> variables = environment;
  std::vector<char*> envp;
  for (std::string& variable : variables) envp.push_back(variable.data());
  envp.push_back(nullptr);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID);
  Process process{.output = output};
  EXPECT_EQ(posix_spawn(&process.pid, FARSPAN_CLI_PATH, actions, &attributes, argv.data(), envp.data()), 0);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(actions);
  return process;
}

Process OnPipe(const std::vector<std::string>& arguments) {
  int ends[2];
  EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDERR_FILENO);
  const Process process = Spawn(arguments, &actions, ends[0], {});
  close(ends[1]);
  return process;
}

Process OnTerminal(const std::vector<std::string>& arguments, const std::vector<std::string>& environment = {}) {
  const int terminal = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
  EXPECT_GE(terminal, 0);
  EXPECT_EQ(grantpt(terminal), 0);
  EXPECT_EQ(unlockpt(terminal), 0);
  const winsize size{.ws_row = 40, .ws_col = 120, .ws_xpixel = 0, .ws_ypixel = 0};
  EXPECT_EQ(ioctl(terminal, TIOCSWINSZ, &size), 0);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  // Opened by the session's leader, it becomes the terminal whose Ctrl-C reaches it.
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, ptsname(terminal), O_RDWR, 0);
  posix_spawn_file_actions_adddup2(&actions, STDIN_FILENO, STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, STDIN_FILENO, STDERR_FILENO);
  return Spawn(arguments, &actions, terminal, environment);
}

// Everything the program writes until `text` was seen, or to its end.
std::string ReadUntil(const Process& process, const std::string& text) {
  std::string all;
  char block[4096];
  while (text.empty() || all.find(text) == std::string::npos) {
    const ssize_t size = read(process.output, block, sizeof(block));
    if (size <= 0) break;
    all.append(block, static_cast<size_t>(size));
  }
  return all;
}

void Type(const Process& process, const std::string& text) {
  ASSERT_EQ(write(process.output, text.data(), text.size()), static_cast<ssize_t>(text.size()));
}

void CloseOutput(Process* process) {
  if (process->output >= 0) close(process->output);
  process->output = -1;
}

// The exit code, or minus the signal that ended it.
int Wait(Process process) {
  int status = 0;
  EXPECT_EQ(waitpid(process.pid, &status, 0), process.pid);
  CloseOutput(&process);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

class ProcessTest : public ::testing::Test {
 protected:
  ProcessTest() {
    server_.handlers().generate = [](const v1::GenerateRequest&, Writer* writer) {
      writer->Write(Started(1));
      writer->Write(Progress(1, 4));
      writer->Write(Delta("one\x1b[2J", {1}));
      writer->Write(Finished());
      return grpc::Status::OK;
    };
    server_.handlers().info = [](v1::GetServerInfoResponse* response) {
      response->mutable_model()->set_name("tiny");
      return grpc::Status::OK;
    };
  }

  // Writes one delta, then goes on in silence until the client leaves.
  void StreamForEver() {
    server_.handlers().generate = [this](const v1::GenerateRequest&, Writer* writer) {
      writer->Write(Delta("one ", {1}));
      while (writer->Write(Progress(1, 1))) {
      }
      left_.count_down();
      return grpc::Status::CANCELLED;
    };
  }

  std::latch left_{1};
  FakeServer server_;
};

TEST_F(ProcessTest, PipedOutputIsTheTextAlone) {
  const Process process = OnPipe({"generate", "--server", server_.target(), "--prompt", "x", "--quiet"});
  EXPECT_EQ(ReadUntil(process, ""), "one\x1b[2J\n");
  EXPECT_EQ(Wait(process), 0);
}

TEST_F(ProcessTest, FailureIsOneLineAndNothingOfTheLibrarys) {
  const std::string target = RefusingTarget();
  const Process process = OnPipe({"generate", "--server", target, "--prompt", "x"});
  EXPECT_EQ(ReadUntil(process, ""), "farspan: cannot reach the server at " + target +
                                        ": Connection refused (is farspan-server running? --server names another "
                                        "address)\n");
  EXPECT_EQ(Wait(process), 69);
}

TEST_F(ProcessTest, SigintCancelsAndExits130) {
  StreamForEver();
  const Process process = OnPipe({"generate", "--server", server_.target(), "--prompt", "x"});
  EXPECT_EQ(ReadUntil(process, "one "), "one ");
  kill(process.pid, SIGINT);
  EXPECT_EQ(ReadUntil(process, ""), "\nfarspan: interrupted\n");
  EXPECT_EQ(Wait(process), 130);
  left_.wait();
}

TEST_F(ProcessTest, ClosedPipeEndsTheStream) {
  server_.handlers().generate = [this](const v1::GenerateRequest&, Writer* writer) {
    while (writer->Write(Delta("text ", {1}))) {
    }
    left_.count_down();
    return grpc::Status::CANCELLED;
  };
  Process process = OnPipe({"generate", "--server", server_.target(), "--prompt", "x"});
  ReadUntil(process, "text ");
  CloseOutput(&process);
  left_.wait();
  EXPECT_NE(Wait(process), 0);
}

TEST_F(ProcessTest, ChatOnATerminalEscapesWhatTheModelSays) {
  const Process process = OnTerminal({"chat", "--server", server_.target()}, {"NO_COLOR=1"});
  EXPECT_THAT(ReadUntil(process, "> "), HasSubstr("tiny"));
  Type(process, "hello\n");
  const std::string answer = ReadUntil(process, "> ");
  EXPECT_THAT(answer, HasSubstr("one\\x1b[2J"));
  EXPECT_THAT(answer, Not(HasSubstr("\x1b[2J")));
  EXPECT_THAT(answer, HasSubstr("generated 14"));
  Type(process, "/quit\n");
  ReadUntil(process, "");
  EXPECT_EQ(Wait(process), 0);
}

TEST_F(ProcessTest, CtrlCStopsAnAnswerAndThenTheChat) {
  StreamForEver();
  const Process process = OnTerminal({"chat", "--server", server_.target()}, {"NO_COLOR=1"});
  ReadUntil(process, "> ");
  Type(process, "hello\n");
  ReadUntil(process, "one ");
  Type(process, "\x03");
  EXPECT_THAT(ReadUntil(process, "> "), HasSubstr("interrupted; this message is forgotten"));
  left_.wait();
  Type(process, "\x03");
  ReadUntil(process, "");
  EXPECT_EQ(Wait(process), 130);
}

TEST_F(ProcessTest, ColoursObeyNoColor) {
  const Process plain = OnTerminal({"nonsense"}, {"NO_COLOR=1"});
  EXPECT_THAT(ReadUntil(plain, ""), Not(HasSubstr("\x1b[31m")));
  EXPECT_EQ(Wait(plain), 64);
  const Process colored = OnTerminal({"nonsense"});
  EXPECT_THAT(ReadUntil(colored, ""), HasSubstr("\x1b[31mfarspan:\x1b[0m"));
  EXPECT_EQ(Wait(colored), 64);
}

}  // namespace
}  // namespace farspan
