// SPDX-License-Identifier: Apache-2.0
#include "server/server.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "engine/base/status_macros.h"
#include "server/model_loader.h"
#include "server/server_log.h"

namespace farspan {
namespace {

constexpr std::chrono::milliseconds kDrainPoll(20);
constexpr std::chrono::milliseconds kGoodbye(200);

SteadyTime Now() { return std::chrono::steady_clock::now(); }

MetricsOptions MetricsOptionsOf(const ServedModel& model, const ServerConfig& config) {
  const Engine& engine = *model.engine;
  const std::string backend(engine.backend().name());
  MetricsOptions options;
  options.model_name = model.name;
  for (const PolicyRegistration& registration : model.policies.registrations()) {
    options.policies.push_back(registration.traits);
  }
  options.device = backend.substr(0, backend.find('/'));
  options.architecture = engine.model_info().architecture;
  options.weights_id = engine.model_info().weights_id;
  options.shape = model.shape;
  options.kv_pages_total = engine.stats().kv_pages_total;
  options.prefix_caching = engine.config().prefix_caching;
  options.vllm_families = config.metrics_compat == MetricsCompat::kVllm;
  return options;
}

}  // namespace

absl::StatusOr<Ports> OpenPorts(const ServerConfig& config) {
  FARSPAN_ASSIGN_OR_RETURN(Listener grpc, Listener::Open(config.host, config.grpc_port));
  FARSPAN_ASSIGN_OR_RETURN(Listener http, Listener::Open(config.host, config.metrics_port));
  return Ports{std::move(grpc), std::move(http)};
}

Server::Server(const CommandLine& line, Ports ports)
    : config_(line.config),
      config_values_(line.values),
      grpc_port_(ports.grpc.port()),
      grpc_listener_(std::make_unique<Listener>(std::move(ports.grpc))),
      http_(std::make_unique<HttpServer>(std::move(ports.http),
                                         [this](absl::string_view path) { return Answer(path); })) {}

Server::~Server() {
  http_.reset();
  if (!serving_.load()) return;
  model_->engine->CancelAll();
  calls_->WaitIdle(Now() + kCutGrace);
  grpc_.reset();
  text_pool_.reset();
  // The last events of the engine still go through the delivery thread, which reads the model.
  model_->engine.reset();
  delivery_.reset();
}

absl::Status Server::Serve(std::unique_ptr<ServedModel> model) {
  model_ = std::move(model);
  Engine* const engine = model_->engine.get();
  metrics_.Open(MetricsOptionsOf(*model_, config_));
  calls_ = std::make_unique<CallRegistry>(config_.max_streams_per_connection);
  delivery_ = std::make_unique<Delivery>([calls = calls_.get()] { calls->CheckStalled(Now()); });
  gate_ = std::make_unique<AdmissionGate>(
      GateLimits{.max_queued_requests = engine->config().max_num_queued_requests,
                 .max_queued_requests_per_tenant = engine->config().max_num_queued_requests_per_tenant,
                 .max_queued_tokens = engine->config().max_num_queued_tokens},
      [engine](const std::string& tenant) {
        const EngineStats stats = engine->stats();
        return QueuedInEngine{.requests = stats.requests_queued,
                              .requests_of_tenant = engine->requests_queued_of(tenant),
                              .tokens = stats.tokens_queued};
      },
      Clock::Real());
  text_pool_ = std::make_unique<TextPool>(static_cast<int>(config_.text_threads),
                                          static_cast<size_t>(config_.max_num_queued_reqs));
  serving_context_ = {.config = &config_,
                      .config_values = EffectiveValues(config_values_, *model_),
                      .model = model_.get(),
                      .gate = gate_.get(),
                      .calls = calls_.get(),
                      .text_pool = text_pool_.get(),
                      .delivery = delivery_.get(),
                      .metrics = &metrics_};
  engine->Start();
  serving_.store(true);
  FARSPAN_ASSIGN_OR_RETURN(grpc_, GrpcServer::Start(std::move(*grpc_listener_), &serving_context_));
  grpc_->SetServing(true);
  ready_.store(true);
  return absl::OkStatus();
}

void Server::StopBeingReady() {
  ready_.store(false);
  grpc_->SetServing(false);
  gate_->BeginDrain();
  metrics_.OnDraining();
}

ExitCode Server::Drain(OneShot* cut) {
  StopBeingReady();
  LogLine(LogLevel::kInfo, JsonLine("draining").Add("calls", calls_->num_calls()));
  cut->WaitUntil(Now() + std::chrono::seconds(config_.drain_notice_seconds));
  grpc_->StopAccepting();
  const SteadyTime deadline = Now() + std::chrono::seconds(config_.drain_timeout_seconds);
  bool idle = false;
  while (!idle && !cut->is_set() && Now() < deadline) {
    idle = calls_->WaitIdle(std::min(deadline, Now() + kDrainPoll));
  }
  ExitCode code = ExitCode::kDrained;
  if (!idle && calls_->num_calls() > 0) {
    code = ExitCode::kCut;
    LogLine(LogLevel::kWarning, JsonLine("cut").Add("calls", calls_->num_calls()));
    model_->engine->BeginDrain();
    model_->engine->CancelAll();
    calls_->WaitIdle(Now() + kCutGrace);
  }
  if (calls_->num_calls() == 0) {
    const SteadyTime last_words = Now() + kCutGrace;
    while (!calls_->streams_closed() && Now() < last_words) std::this_thread::sleep_for(kDrainPoll);
    // Idle connections whose clients do not look are not waited for.
    grpc_->Shutdown(Now() + kGoodbye);
  }
  LogLine(LogLevel::kInfo, JsonLine("drained").Add("exit_code", static_cast<int64_t>(code)));
  return code;
}

void Server::AnnounceFault() {
  StopBeingReady();
  calls_->WaitIdle(Now() + kCutGrace);
}

bool Server::Stuck() const {
  const EngineStats stats = model_->engine->stats();
  return stats.requests_queued + stats.requests_running > 0 && Now() - stats.last_progress > kStuckStepTime;
}

MetricsReadings Server::Read() const {
  MetricsReadings readings;
  readings.log_lines_dropped = NumLogLinesDropped();
  if (!serving_.load()) return readings;
  const Engine& engine = *model_->engine;
  const EngineStats stats = engine.stats();
  readings.requests_running = stats.requests_running;
  readings.requests_waiting = stats.requests_queued;
  readings.calls_active = calls_->num_calls();
  for (int i = 0; i < kNumMemoryKinds; ++i) {
    readings.memory_bytes[static_cast<size_t>(i)] = engine.backend().MemoryBytes(static_cast<MemoryKind>(i));
  }
  readings.device_memory = engine.backend().WholeMemory();
  for (int i = 0; i < kNumTimedOps; ++i) {
    readings.op_time[static_cast<size_t>(i)] = engine.backend().OpTime(static_cast<TimedOp>(i));
  }
  if (ready_.load()) {
    readings.connections_refused = grpc_->num_connections_refused();
    readings.accept_exhausted = grpc_->num_accept_exhausted();
  }
  return readings;
}

HttpReply Server::Answer(absl::string_view path) const {
  if (path == "/metrics") {
    return {.content_type = "text/plain; version=0.0.4; charset=utf-8", .body = metrics_.Text(Read())};
  }
  if (path == "/livez") {
    if (serving_.load() && Stuck()) return {.status = 503, .body = "no step has ended for too long\n"};
    return {.body = "ok\n"};
  }
  if (path == "/readyz") {
    if (ready_.load()) return {.body = "ok\n"};
    return {.status = 503, .body = serving_.load() ? "draining\n" : "loading\n"};
  }
  return {.status = 404, .body = "only /metrics, /livez and /readyz\n"};
}

}  // namespace farspan
