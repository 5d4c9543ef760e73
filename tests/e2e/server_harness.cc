// SPDX-License-Identifier: Apache-2.0
#include "tests/e2e/server_harness.h"

#include <sys/mman.h>
#include <unistd.h>

#include <boost/asio.hpp>
#include <boost/beast.hpp>

#include "google/rpc/status.pb.h"
#include "server/model_loader.h"
#include "server/server_log.h"

namespace farspan {
namespace {

SteadyTime In(std::chrono::seconds time) { return std::chrono::steady_clock::now() + time; }

CommandLine TestCommandLine(const std::string& model_path, std::vector<std::string> flags) {
  std::vector<std::string> all = {"--model",        model_path, "--served-model-name",    "tiny", "--grpc-port", "0",
                                  "--metrics-port", "0",        "--drain-notice-seconds", "0",    "--threads",   "1"};
  all.insert(all.end(), flags.begin(), flags.end());
  CommandLine line = ParseCommandLine(all, {});
  EXPECT_THAT(line.errors, ::testing::IsEmpty());
  return line;
}

}  // namespace

ServerHarness::ServerHarness(std::vector<std::string> flags, const TinyCheckpointOptions& checkpoint)
    : checkpoint_(checkpoint), log_fd_(memfd_create("log", MFD_CLOEXEC)), log_(std::make_unique<LogWriter>(log_fd_)) {
  StartServerLog(log_.get(), LogLevel::kDebug);
  const CommandLine line = TestCommandLine(checkpoint_.path(), std::move(flags));
  absl::StatusOr<Ports> ports = OpenPorts(line.config);
  EXPECT_TRUE(ports.ok()) << ports.status();
  server_ = std::make_unique<Server>(line, *std::move(ports));
  LoadError error;
  std::unique_ptr<ServedModel> model = LoadServedModel(line.config, server_->metrics(), &error);
  EXPECT_NE(model, nullptr) << error.sentence;
  EXPECT_TRUE(server_->Serve(std::move(model)).ok());
  channel_ =
      grpc::CreateChannel("127.0.0.1:" + std::to_string(server_->grpc_port()), grpc::InsecureChannelCredentials());
  inference_ = v1::InferenceService::NewStub(channel_);
  comparison_ = v1::ComparisonService::NewStub(channel_);
  model_ = v1::ModelService::NewStub(channel_);
}

ServerHarness::~ServerHarness() {
  server_.reset();
  StopServerLog();
  log_.reset();
  close(log_fd_);
}

Generated ServerHarness::Generate(const v1::GenerateRequest& request, grpc::ClientContext* context) {
  Generated result;
  const auto reader = inference_->Generate(context, request);
  v1::GenerateResponse response;
  while (reader->Read(&response)) {
    result.saw_initial_metadata = true;
    if (response.has_started()) result.started = response.started();
    if (response.has_finished()) result.finished = response.finished();
    result.text += response.delta().text();
    result.token_ids.insert(result.token_ids.end(), response.delta().token_ids().begin(),
                            response.delta().token_ids().end());
  }
  result.status = reader->Finish();
  const auto& trailers = context->GetServerTrailingMetadata();
  if (const auto pushback = trailers.find("grpc-retry-pushback-ms"); pushback != trailers.end()) {
    result.pushback_ms = std::string(pushback->second.data(), pushback->second.size());
  }
  return result;
}

Generated ServerHarness::Generate(const v1::GenerateRequest& request) {
  grpc::ClientContext context;
  return Generate(request, &context);
}

std::pair<int, std::string> ServerHarness::Get(const std::string& path) { return HttpGet(server_->http_port(), path); }

std::pair<int, std::string> HttpGet(int64_t port, const std::string& path) {
  namespace http = boost::beast::http;
  boost::asio::io_context io;
  boost::beast::tcp_stream stream(io);
  boost::system::error_code error;
  stream.connect({boost::asio::ip::make_address("127.0.0.1"), static_cast<uint16_t>(port)}, error);
  if (error) return {0, ""};
  http::request<http::empty_body> request(http::verb::get, path, 11);
  request.keep_alive(false);
  http::write(stream, request, error);
  boost::beast::flat_buffer buffer;
  http::response_parser<http::string_body> parser;
  parser.body_limit(16 << 20);
  http::read(stream, buffer, parser, error);
  if (error) return {0, ""};
  return {parser.get().result_int(), parser.get().body()};
}

std::string ServerHarness::Log() {
  log_->Flush(In(std::chrono::seconds(10)));
  std::string text(static_cast<size_t>(lseek(log_fd_, 0, SEEK_END)), '\0');
  EXPECT_EQ(pread(log_fd_, text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
  return text;
}

bool ServerHarness::WaitForIdlePages() {
  Engine& engine = *server_->model().engine;
  if (!engine.WaitIdle(In(std::chrono::seconds(60)))) return false;
  // The snapshot follows the last request's end within a step.
  for (const SteadyTime deadline = In(std::chrono::seconds(10)); std::chrono::steady_clock::now() < deadline;) {
    const EngineStats stats = engine.stats();
    if (stats.kv_pages_used == 0 && stats.requests_running == 0 && stats.requests_queued == 0) return true;
    std::this_thread::yield();
  }
  return false;
}

v1::GenerateRequest GreedyRequest(const std::string& prompt, int64_t max_tokens) {
  v1::GenerateRequest request;
  request.mutable_spec()->mutable_prompt()->set_text(prompt);
  request.mutable_spec()->mutable_sampling()->set_temperature(0);
  request.mutable_spec()->mutable_stopping()->set_max_tokens(max_tokens);
  request.mutable_spec()->mutable_stopping()->set_ignore_eos(true);
  return request;
}

google::rpc::ErrorInfo ErrorInfoOf(const grpc::Status& status) {
  google::rpc::Status details;
  details.ParseFromString(status.error_details());
  google::rpc::ErrorInfo found;
  int count = 0;
  for (const google::protobuf::Any& any : details.details()) count += any.UnpackTo(&found) ? 1 : 0;
  return count == 1 ? found : google::rpc::ErrorInfo();
}

}  // namespace farspan
