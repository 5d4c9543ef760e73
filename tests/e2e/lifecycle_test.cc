// SPDX-License-Identifier: Apache-2.0
// How serving begins and ends: ports, drain in order, cuts, floods of connections.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>

#include "server/model_loader.h"
#include "tests/e2e/server_harness.h"

namespace farspan {
namespace {

using ::testing::HasSubstr;

TEST(LifecycleTest, ABusyPortIsNamed) {
  const absl::StatusOr<Listener> taken = Listener::Open("127.0.0.1", 0);
  ASSERT_TRUE(taken.ok());
  const absl::StatusOr<Listener> second = Listener::Open("127.0.0.1", taken->port());
  EXPECT_THAT(std::string(second.status().message()),
              HasSubstr("port " + std::to_string(taken->port()) + " of 127.0.0.1 is already in use"));
}

TEST(LifecycleTest, BadModelFilesAndBadOptionsHaveTheirExitCodes) {
  PrometheusSink metrics;
  LoadError error;
  ServerConfig config;
  config.model_path = "/nonexistent/model.gguf";
  EXPECT_EQ(LoadServedModel(config, &metrics, &error), nullptr);
  EXPECT_EQ(error.exit_code, ExitCode::kBadModel);
  EXPECT_THAT(error.sentence, HasSubstr("/nonexistent/model.gguf"));
  const TinyCheckpoint checkpoint;
  config.model_path = checkpoint.path();
  config.max_model_len = 1 << 20;
  EXPECT_EQ(LoadServedModel(config, &metrics, &error), nullptr);
  EXPECT_EQ(error.exit_code, ExitCode::kUsage) << error.sentence;
}

TEST(LifecycleTest, NotReadyBeforeTheModelIsLoaded) {
  const CommandLine line = ParseCommandLine({"m", "--grpc-port", "0", "--metrics-port", "0"}, {});
  absl::StatusOr<Ports> ports = OpenPorts(line.config);
  ASSERT_TRUE(ports.ok());
  const Server server(line, *std::move(ports));
  EXPECT_GT(server.grpc_port(), 0);
  EXPECT_NE(server.grpc_port(), server.http_port());
}

TEST(LifecycleTest, DrainRefusesNewCallsAndLetsRunningOnesFinish) {
  ServerHarness harness({"--drain-notice-seconds", "3600", "--drain-timeout-seconds", "60"});
  grpc::ClientContext context;
  const auto reader = harness.inference().Generate(&context, GreedyRequest("hello", 3000));
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  OneShot end_notice;
  ExitCode code = ExitCode::kInternal;
  std::thread drain([&] { code = harness.server().Drain(&end_notice); });
  while (harness.Get("/readyz").first != 503) std::this_thread::yield();
  EXPECT_EQ(harness.Get("/livez").first, 200) << "draining is no reason to be killed";
  // Still reachable, so that a client learns why.
  const Generated refused = harness.Generate(GreedyRequest("hello", 4));
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(ErrorInfoOf(refused.status).reason(), "DRAINING");
  EXPECT_FALSE(refused.pushback_ms.empty());
  EXPECT_FALSE(refused.saw_initial_metadata);
  // The second signal skips what is left: the running call is cut, its tokens stay.
  end_notice.Set();
  drain.join();
  while (reader->Read(&response)) {
  }
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(code, ExitCode::kCut);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE) << status.error_message();
  EXPECT_TRUE(harness.WaitForIdlePages());
}

TEST(LifecycleTest, DrainWaitsForTheLastCallAndThenClosesThePort) {
  ServerHarness harness({"--drain-timeout-seconds", "60"});
  Generated result;
  grpc::ClientContext context;
  const auto reader = harness.inference().Generate(&context, GreedyRequest("hello", 200));
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  std::thread client([&] {
    while (reader->Read(&response)) {
    }
    result.status = reader->Finish();
  });
  OneShot cut;
  EXPECT_EQ(harness.server().Drain(&cut), ExitCode::kDrained);
  client.join();
  EXPECT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_TRUE(response.has_finished());
  EXPECT_TRUE(Listener::Open("127.0.0.1", harness.server().grpc_port()).ok()) << "the port is free again";
}

// Connects once; the descriptor, or -1.
int Connect(int64_t port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return fd;
  close(fd);
  return -1;
}

TEST(LifecycleTest, ConnectionsOverTheLimitAreClosedAndTheirPlacesComeBack) {
  ServerHarness harness({"--max-connections-per-address", "4"});
  std::vector<int> fds;
  for (int i = 0; i < 12; ++i) fds.push_back(Connect(harness.server().grpc_port()));
  int num_closed = 0;
  for (const int fd : fds) {
    // HTTP/2 servers speak first: a connection that was kept sends its settings, one that was closed ends.
    char byte = 0;
    num_closed += recv(fd, &byte, 1, 0) <= 0 ? 1 : 0;
  }
  for (const int fd : fds) close(fd);
  EXPECT_EQ(num_closed, 8);
  grpc::ClientContext context;
  context.set_wait_for_ready(true);
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
  EXPECT_TRUE(harness.Generate(GreedyRequest("hello", 2), &context).status.ok());
}

TEST(LifecycleTest, RunningOutOfDescriptorsDoesNotStopAccepting) {
  ServerHarness harness;
  ASSERT_TRUE(harness.Generate(GreedyRequest("hello", 2)).status.ok());
  rlimit limit{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  std::vector<int> waiting;
  for (int i = 0; i < 8; ++i) waiting.push_back(Connect(harness.server().grpc_port()));
  // From here on no descriptor can be made: what is connected next stays in the backlog.
  rlimit none = limit;
  none.rlim_cur = 3;
  const int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(harness.server().grpc_port()));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(connect(client, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  while (harness.server().num_accept_exhausted() == 0) std::this_thread::yield();
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  char byte = 0;
  EXPECT_EQ(recv(client, &byte, 1, 0), 1) << "accepted after all";
  EXPECT_TRUE(harness.Generate(GreedyRequest("hello", 2)).status.ok());
  close(client);
  for (const int fd : waiting) close(fd);
}

}  // namespace
}  // namespace farspan
