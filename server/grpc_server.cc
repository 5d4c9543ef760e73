// SPDX-License-Identifier: Apache-2.0
#include "server/grpc_server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>

#include <random>
#include <utility>
#include <vector>

#include "grpc/health/v1/health.pb.h"

namespace farspan {
namespace {

constexpr int kLibraryMarginBytes = 1 << 20;  // a message a little too large is ours to refuse, with its reason
constexpr int kAdvertisedStreams = 100;
constexpr int kMaxMetadataBytes = 16 << 10;
constexpr int kHandshakeTimeoutMs = 5'000;
constexpr int kMinClientPingMs = 10'000;
constexpr int kMaxConnectionAgeMs = 3'600'000;
constexpr int kMaxConnectionAgeGraceMs = 600'000;
constexpr double kConnectionAgeJitter = 0.1;

int JitteredConnectionAgeMs() {
  std::random_device device;
  std::uniform_real_distribution<double> jitter(1 - kConnectionAgeJitter, 1 + kConnectionAgeJitter);
  return static_cast<int>(kMaxConnectionAgeMs * jitter(device));
}

int Milliseconds(int64_t seconds) { return static_cast<int>(seconds * 1000); }

// Reflection or none: the library's own plugin is there from static initialisation on, asked for or not.
class ReflectionOption final : public grpc::ServerBuilderOption {
 public:
  explicit ReflectionOption(bool enabled) : enabled_(enabled) {}
  void UpdateArguments(grpc::ChannelArguments*) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override {
    std::erase_if(*plugins, [](const auto& plugin) {
      return dynamic_cast<const grpc::reflection::ProtoServerReflectionPlugin*>(plugin.get()) != nullptr;
    });
    if (enabled_) plugins->push_back(std::make_unique<grpc::reflection::ProtoServerReflectionPlugin>());
  }

 private:
  const bool enabled_;
};

void SetLimits(const ServerConfig& config, grpc::ServerBuilder* builder) {
  builder->SetMaxReceiveMessageSize(static_cast<int>(config.max_request_bytes) + kLibraryMarginBytes);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, Milliseconds(config.keepalive_time_seconds));
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, Milliseconds(config.keepalive_timeout_seconds));
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, kMinClientPingMs);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kAdvertisedStreams);
  builder->AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kMaxMetadataBytes);
  builder->AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, kHandshakeTimeoutMs);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS, JitteredConnectionAgeMs());
  builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS, kMaxConnectionAgeGraceMs);
  // A compressed message may be a thousand times its size; the limit above is on the compressed one.
  builder->SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_GZIP, false);
  builder->SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_DEFLATE, false);
}

}  // namespace

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(Listener listener, const ServingContext* serving) {
  std::unique_ptr<GrpcServer> server(new GrpcServer(listener.port(), serving));
  grpc::EnableDefaultHealthCheckService(true);
  // Links the health messages into this binary, so that reflection can describe them.
  grpc::health::v1::HealthCheckRequest::descriptor();
  grpc::ServerBuilder builder;
  builder.SetOption(std::make_unique<ReflectionOption>(serving->config->serves_reflection()));
  SetLimits(*serving->config, &builder);
  builder.RegisterService(&server->inference_);
  builder.RegisterService(&server->comparison_);
  builder.RegisterService(&server->model_);
  using ExternalConnectionType = grpc::ServerBuilder::experimental_type::ExternalConnectionType;
  server->external_ = builder.experimental().AddExternalConnectionAcceptor(ExternalConnectionType::FROM_FD,
                                                                           grpc::InsecureServerCredentials());
  server->server_ = builder.BuildAndStart();
  if (server->server_ == nullptr) return absl::InternalError("the gRPC server did not start");
  server->SetServing(false);
  server->acceptor_ =
      std::make_unique<Acceptor>(std::move(listener),
                                 ConnectionLimits{.total = serving->config->max_connections,
                                                  .per_address = serving->config->max_connections_per_address},
                                 [external = server->external_.get()](int listener_fd, int fd) {
                                   grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters parameters;
                                   parameters.listener_fd = listener_fd;
                                   parameters.fd = fd;
                                   external->HandleNewConnection(&parameters);
                                 });
  return server;
}

GrpcServer::GrpcServer(int64_t port, const ServingContext* serving)
    : port_(port), inference_(serving), comparison_(serving), model_(serving) {}

GrpcServer::~GrpcServer() { Shutdown(std::chrono::steady_clock::now()); }

void GrpcServer::SetServing(bool serving) {
  grpc::HealthCheckServiceInterface* const health = server_->GetHealthCheckService();
  for (const char* service : {"", v1::InferenceService::service_full_name(), v1::ComparisonService::service_full_name(),
                              v1::ModelService::service_full_name()}) {
    health->SetServingStatus(service, serving);
  }
}

void GrpcServer::StopAccepting() {
  if (acceptor_ != nullptr) acceptor_->Stop();
}

void GrpcServer::Shutdown(SteadyTime deadline) {
  if (server_ == nullptr) return;
  StopAccepting();
  const SteadyDuration left = deadline - std::chrono::steady_clock::now();
  server_->Shutdown(std::chrono::system_clock::now() +
                    std::chrono::duration_cast<std::chrono::system_clock::duration>(left));
}

}  // namespace farspan
