// SPDX-License-Identifier: Apache-2.0
// farspan-server as a process: what its clients, its probes and whoever started it see when it is told to stop.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <nlohmann/json.hpp>
#include <thread>

#include "grpc/health/v1/health.grpc.pb.h"
#include "server/one_shot.h"
#include "tests/e2e/server_harness.h"

namespace farspan {
namespace {

using std::chrono::seconds;
using std::chrono::steady_clock;

// A started server. Its log is read line by line, in order.
class ServerProcess {
 public:
  explicit ServerProcess(std::vector<std::string> flags) {
    std::vector<std::string> arguments = {
        FARSPAN_SERVER_PATH, "--grpc-port", "0", "--metrics-port", "0", "--threads", "1"};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    int ends[2];
    EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDERR_FILENO);
    char* const no_environment[] = {nullptr};
    EXPECT_EQ(posix_spawn(&pid_, FARSPAN_SERVER_PATH, &actions, nullptr, argv.data(), no_environment), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    log_ = fdopen(ends[0], "r");
  }
  ~ServerProcess() {
    if (pid_ > 0) Stop(SIGKILL);
    if (pid_ > 0) Wait();
    std::fclose(log_);
  }

  // The next line of this event; null at the end of the log.
  nlohmann::json WaitForEvent(const std::string& event) {
    char* line = nullptr;
    size_t capacity = 0;
    nlohmann::json found;
    while (found.is_null() && getline(&line, &capacity, log_) > 0) {
      const nlohmann::json json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
      if (json.is_object() && json["event"] == event) found = json;
    }
    free(line);
    return found;
  }
  // Waits until it serves, and connects.
  void Connect() {
    const nlohmann::json serving = WaitForEvent("serving");
    ASSERT_FALSE(serving.is_null());
    grpc_port = serving["grpc_port"];
    http_port = serving["metrics_port"];
    channel = grpc::CreateChannel("127.0.0.1:" + std::to_string(grpc_port), grpc::InsecureChannelCredentials());
  }
  void Stop(int signal) const { kill(pid_, signal); }
  // The exit code, or minus the signal that ended it.
  int Wait() {
    int status = 0;
    EXPECT_EQ(waitpid(std::exchange(pid_, 0), &status, 0) > 0, true);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

  int64_t grpc_port = 0;
  int64_t http_port = 0;
  std::shared_ptr<grpc::Channel> channel;

 private:
  pid_t pid_ = 0;
  FILE* log_ = nullptr;
};

// A call whose first event has come, read to its end on a thread of its own.
class RunningCall {
 public:
  RunningCall(const std::shared_ptr<grpc::Channel>& channel, int64_t max_tokens)
      : stub_(v1::InferenceService::NewStub(channel)),
        reader_(stub_->Generate(&context_, GreedyRequest("hello", max_tokens))) {
    v1::GenerateResponse response;
    EXPECT_TRUE(reader_->Read(&response));
    thread_ = std::thread([this] {
      v1::GenerateResponse next;
      while (reader_->Read(&next)) num_tokens_ += next.delta().token_ids_size();
      status_ = reader_->Finish();
    });
  }
  ~RunningCall() { Join(); }

  void Join() {
    if (thread_.joinable()) thread_.join();
  }
  // After Join.
  const grpc::Status& status() const { return status_; }
  int64_t num_tokens() const { return num_tokens_; }

 private:
  grpc::ClientContext context_;
  const std::unique_ptr<v1::InferenceService::Stub> stub_;
  const std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>> reader_;
  grpc::Status status_;
  int64_t num_tokens_ = 0;
  std::thread thread_;
};

bool Accepts(int64_t port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const bool accepted = connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  close(fd);
  return accepted;
}

// What one look at the server found, in the order of the fields.
struct Look {
  bool accepts = false;
  grpc::Status call;
  bool serving = false;
  int readyz = 0;
  int livez = 0;
  bool draining_gauge = false;
};

Look LookAt(const ServerProcess& server) {
  Look look;
  look.accepts = Accepts(server.grpc_port);
  grpc::ClientContext call_context;
  const auto reader = v1::InferenceService::NewStub(server.channel)->Generate(&call_context, GreedyRequest("x", 1));
  v1::GenerateResponse response;
  while (reader->Read(&response)) {
  }
  look.call = reader->Finish();
  grpc::ClientContext health_context;
  grpc::health::v1::HealthCheckResponse health;
  grpc::health::v1::Health::NewStub(server.channel)->Check(&health_context, {}, &health);
  look.serving = health.status() == grpc::health::v1::HealthCheckResponse::SERVING;
  look.readyz = HttpGet(server.http_port, "/readyz").first;
  look.livez = HttpGet(server.http_port, "/livez").first;
  look.draining_gauge =
      HttpGet(server.http_port, "/metrics").second.find("\nfarspan_draining{model_name=\"hash\"} 1\n") !=
      std::string::npos;
  return look;
}

TEST(ProcessTest, SigtermUnderLoadReadinessFirstThenNoNewWorkAndAcceptedRequestsFinish) {
  constexpr int64_t kTokens = 1000;
  ServerProcess server(
      {"--model", "hash:step_us=3000", "--drain-notice-seconds", "1", "--drain-timeout-seconds", "60"});
  server.Connect();
  std::vector<std::unique_ptr<RunningCall>> calls;
  for (int i = 0; i < 8; ++i) calls.push_back(std::make_unique<RunningCall>(server.channel, kTokens));
  OneShot finished;
  std::vector<Look> looks = {LookAt(server)};
  std::thread prober([&] {
    while (!finished.WaitUntil(steady_clock::now() + std::chrono::milliseconds(20))) looks.push_back(LookAt(server));
  });
  server.Stop(SIGTERM);
  for (const auto& call : calls) call->Join();
  finished.Set();
  prober.join();
  EXPECT_EQ(server.Wait(), 0);
  for (const auto& call : calls) {
    EXPECT_TRUE(call->status().ok()) << call->status().error_message();
    EXPECT_EQ(call->num_tokens(), kTokens);
  }
  EXPECT_FALSE(server.WaitForEvent("draining").is_null());
  EXPECT_EQ(server.WaitForEvent("drained")["exit_code"], 0);

  EXPECT_TRUE(looks.front().call.ok() && looks.front().serving && looks.front().readyz == 200);
  int num_noticed = 0;
  bool refused_before = false;
  bool closed_before = false;
  for (const Look& look : looks) {
    // The last one may have come after the end.
    if (look.livez == 0) continue;
    EXPECT_EQ(look.livez, 200) << "draining is no reason to be killed";
    if (look.call.ok()) {
      EXPECT_FALSE(refused_before) << "new work after the first refusal";
    } else {
      EXPECT_EQ(look.call.error_code(), grpc::StatusCode::UNAVAILABLE);
      EXPECT_EQ(ErrorInfoOf(look.call).reason(), "DRAINING");
      // Looked at after the refusal: whoever was refused could have known.
      EXPECT_FALSE(look.serving);
      EXPECT_EQ(look.readyz, 503);
      EXPECT_TRUE(look.draining_gauge);
      refused_before = true;
      num_noticed += look.accepts ? 1 : 0;
    }
    if (!look.accepts) {
      EXPECT_FALSE(look.call.ok()) << "the port closes last";
      closed_before = true;
    } else {
      EXPECT_FALSE(closed_before);
    }
  }
  EXPECT_GT(num_noticed, 0) << "a time in which the port is open and says why not";
}

TEST(ProcessTest, RequestsThatOutliveTheDrainAreCutWithWhatTheyHave) {
  ServerProcess server(
      {"--model", "hash:step_us=20000", "--drain-notice-seconds", "0", "--drain-timeout-seconds", "1"});
  server.Connect();
  RunningCall call(server.channel, 8000);
  const SteadyTime begin = steady_clock::now();
  server.Stop(SIGTERM);
  EXPECT_EQ(server.Wait(), 3);
  const SteadyDuration took = steady_clock::now() - begin;
  EXPECT_GE(took, seconds(1));
  EXPECT_LE(took, seconds(1) + kCutGrace);
  call.Join();
  EXPECT_EQ(call.status().error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(ErrorInfoOf(call.status()).reason(), "DRAINING");
  EXPECT_GT(call.num_tokens(), 0) << "what was streamed stays";
  EXPECT_EQ(server.WaitForEvent("drained")["exit_code"], 3);
}

TEST(ProcessTest, ASecondSigtermCutsAtOnce) {
  ServerProcess server(
      {"--model", "hash:step_us=20000", "--drain-notice-seconds", "3600", "--drain-timeout-seconds", "3600"});
  server.Connect();
  RunningCall call(server.channel, 8000);
  server.Stop(SIGTERM);
  ASSERT_FALSE(server.WaitForEvent("draining").is_null());
  server.Stop(SIGTERM);
  EXPECT_EQ(server.Wait(), 3);
  call.Join();
  EXPECT_EQ(call.status().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST(ProcessTest, AnIdleServerStopsAfterTheNotice) {
  ServerProcess server({"--model", "hash:", "--drain-notice-seconds", "0", "--drain-timeout-seconds", "3600"});
  server.Connect();
  const SteadyTime begin = steady_clock::now();
  server.Stop(SIGTERM);
  EXPECT_EQ(server.Wait(), 0);
  EXPECT_LT(steady_clock::now() - begin, seconds(1));
}

TEST(ProcessTest, SigtermWhileLoadingLeavesALastLineAndExitsAtOnce) {
  ServerProcess server({"--model", "hash:load_ms=3600000"});
  ASSERT_FALSE(server.WaitForEvent("loading").is_null());
  const SteadyTime begin = steady_clock::now();
  server.Stop(SIGTERM);
  EXPECT_EQ(server.Wait(), 0);
  EXPECT_LT(steady_clock::now() - begin, seconds(2));
  EXPECT_EQ(server.WaitForEvent("stopped")["exit_code"], 0);
}

}  // namespace
}  // namespace farspan
