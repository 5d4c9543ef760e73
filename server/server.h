// SPDX-License-Identifier: Apache-2.0
// The whole server in one object: model, services, ports, threads. What main() runs and what tests run in process.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/admission_gate.h"
#include "server/call_registry.h"
#include "server/config.h"
#include "server/delivery.h"
#include "server/exit_codes.h"
#include "server/grpc_server.h"
#include "server/http_server.h"
#include "server/listener.h"
#include "server/one_shot.h"
#include "server/prometheus_sink.h"
#include "server/served_model.h"
#include "server/text_pool.h"

namespace farspan {

// The ports, taken before the model is loaded, so that a busy one is known at once.
struct Ports {
  Listener grpc;
  Listener http;
};
absl::StatusOr<Ports> OpenPorts(const ServerConfig& config);

// How long serving waits for what, besides the settings.
inline constexpr std::chrono::seconds kStuckStepTime{60};
inline constexpr std::chrono::seconds kCutGrace{2};

// Owned by one thread, which calls Serve and Drain.
class Server {
 public:
  // Opens the admin port: alive, not ready.
  Server(const CommandLine& line, Ports ports);
  // Cuts what is left.
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  PrometheusSink* metrics() { return &metrics_; }

  // Starts the engine and the services; then health says SERVING and /readyz 200.
  absl::Status Serve(std::unique_ptr<ServedModel> model);

  // Ends serving in order: not ready; a notice time in which new calls are refused with UNAVAILABLE; the port closed;
  // calls given time to finish; the rest cut. `cut` skips to the last. Calls that do not end even so belong to a stuck
  // device: they are left behind, and the server must not be destroyed.
  ExitCode Drain(OneShot* cut);
  // After Serve.
  int64_t num_calls() const { return calls_->num_calls(); }

  // The device has failed for good: not ready, calls end as UNAVAILABLE, nothing can be drained.
  void AnnounceFault();

  int64_t grpc_port() const { return grpc_port_; }
  int64_t http_port() const { return http_->port(); }
  // Times that the system had no descriptor or memory for a connection.
  int64_t num_accept_exhausted() const { return grpc_->num_accept_exhausted(); }
  const ServedModel& model() const { return *model_; }

 private:
  HttpReply Answer(absl::string_view path) const;
  MetricsReadings Read() const;
  bool Stuck() const;
  void StopBeingReady();

  const ServerConfig config_;
  const std::vector<ConfigValue> config_values_;
  const int64_t grpc_port_;
  std::unique_ptr<Listener> grpc_listener_;
  PrometheusSink metrics_;
  std::atomic<bool> serving_{false};  // after it model_, calls_ and grpc_ do not change
  std::atomic<bool> ready_{false};
  // Torn down in the reverse order: the port, the engine with its model, then those who hear from them.
  std::unique_ptr<CallRegistry> calls_;
  std::unique_ptr<Delivery> delivery_;
  std::unique_ptr<ServedModel> model_;
  std::unique_ptr<AdmissionGate> gate_;
  std::unique_ptr<TextPool> text_pool_;
  ServingContext serving_context_;
  std::unique_ptr<GrpcServer> grpc_;
  std::unique_ptr<HttpServer> http_;
};

}  // namespace farspan
