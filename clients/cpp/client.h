// SPDX-License-Identifier: Apache-2.0
// A connection to a Farspan server, with a typed method for each call of its API.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "clients/cpp/event_stream.h"
#include "farspan/v1/comparison.pb.h"
#include "farspan/v1/inference.pb.h"
#include "farspan/v1/model.pb.h"
#include "grpc/health/v1/health.pb.h"

namespace grpc {
class ChannelCredentials;
}

namespace farspan {

struct ClientOptions {
  // Largest message sent or received. The server has its own limit.
  int64_t max_message_bytes = int64_t{64} << 20;
  // A silent connection is probed this often while a call runs, and given up when a probe is not answered in time.
  std::chrono::milliseconds keepalive_interval{30'000};
  std::chrono::milliseconds keepalive_timeout{10'000};
  // A connection of its own; otherwise clients of one target share one, and with it the server's limit of calls on it.
  bool own_connection = false;
  // Plain text when null.
  std::shared_ptr<grpc::ChannelCredentials> credentials;
};

struct CallOptions {
  // From the start of the call to its end; none when absent.
  std::optional<std::chrono::nanoseconds> timeout;
  // Cancels the call when a stop is requested.
  std::stop_token stop;
  // In whose name, for servers that trust it; none when empty. A call with one that CheckTenant refuses is not made.
  std::string tenant;
  // The W3C trace context that the call continues, "00-...": the server's log names it. None when empty.
  std::string traceparent;
};

// INVALID_ARGUMENT unless `tenant` is 1 to 64 printable ASCII characters without spaces at its ends.
absl::Status CheckTenant(const std::string& tenant);

// Failures are the server's status; ErrorDetailsOf (error_details.h) decodes what it attached. UNAVAILABLE without an
// ErrorInfo reason means that the server could not be reached or was lost. Thread-safe; copies share the connection.
class Client {
 public:
  // `target`: HOST:PORT, [IPV6]:PORT or unix:PATH. Connects on the first call; INVALID_ARGUMENT for a malformed target.
  static absl::StatusOr<Client> Connect(const std::string& target, const ClientOptions& options = {});

  // Calls `on_event` for each event, in order, and returns how the call ended. `on_event` returns false to cancel.
  absl::Status Generate(const v1::GenerateRequest& request,
                        absl::FunctionRef<bool(const v1::GenerateResponse&)> on_event,
                        const CallOptions& options = {}) const;
  absl::Status ComparePolicies(const v1::ComparePoliciesRequest& request,
                               absl::FunctionRef<bool(const v1::ComparePoliciesResponse&)> on_event,
                               const CallOptions& options = {}) const;

  // The same without blocking. A stream serves one call; one whose options are refused is done before Start returns.
  void Start(const v1::GenerateRequest& request, std::shared_ptr<GenerateStream> stream,
             const CallOptions& options = {}) const;
  void Start(const v1::ComparePoliciesRequest& request, std::shared_ptr<ComparisonStream> stream,
             const CallOptions& options = {}) const;

  absl::StatusOr<v1::TokenizeResponse> Tokenize(const v1::TokenizeRequest& request,
                                                const CallOptions& options = {}) const;
  absl::StatusOr<v1::DetokenizeResponse> Detokenize(const v1::DetokenizeRequest& request,
                                                    const CallOptions& options = {}) const;
  absl::StatusOr<v1::GetServerInfoResponse> GetServerInfo(const CallOptions& options = {}) const;
  absl::StatusOr<v1::ListAttentionPoliciesResponse> ListAttentionPolicies(const CallOptions& options = {}) const;

  // Asks the standard health service; an empty name asks about the server as a whole.
  absl::StatusOr<grpc::health::v1::HealthCheckResponse::ServingStatus> CheckHealth(
      const std::string& service = "", const CallOptions& options = {}) const;

 private:
  struct Stubs;
  explicit Client(std::shared_ptr<const Stubs> stubs);

  std::shared_ptr<const Stubs> stubs_;
};

}  // namespace farspan
