// SPDX-License-Identifier: Apache-2.0
// The gRPC server: services, health, reflection, limits, and the accept loop in front.
#pragma once

#include <memory>

#include <grpcpp/grpcpp.h>

#include "absl/status/statusor.h"
#include "server/acceptor.h"
#include "server/services.h"
#include "server/serving_context.h"

namespace farspan {

// Health is NOT_SERVING until SetServing(true). Methods are called by one thread, num_ ones by any.
class GrpcServer {
 public:
  // `serving` outlives the server.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(Listener listener, const ServingContext* serving);
  ~GrpcServer();
  GrpcServer(const GrpcServer&) = delete;
  GrpcServer& operator=(const GrpcServer&) = delete;

  int64_t port() const { return port_; }
  // Of the server ("") and of each service.
  void SetServing(bool serving);
  // Closes the port; calls and connections go on.
  void StopAccepting();
  // Also tells clients to go; blocks until the calls have ended or the deadline, which cancels the rest.
  void Shutdown(SteadyTime deadline);

  int64_t num_connections_refused() const { return acceptor_->num_refused(); }
  int64_t num_accept_exhausted() const { return acceptor_->num_exhausted(); }

 private:
  GrpcServer(int64_t port, const ServingContext* serving);

  const int64_t port_;
  InferenceServiceV1 inference_;
  ComparisonServiceV1 comparison_;
  ModelServiceV1 model_;
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> external_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<Acceptor> acceptor_;
};

}  // namespace farspan
