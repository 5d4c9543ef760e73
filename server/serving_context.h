// SPDX-License-Identifier: Apache-2.0
// What every call needs, passed as one.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include <grpcpp/grpcpp.h>

#include "server/admission_gate.h"
#include "server/call_log.h"
#include "server/call_registry.h"
#include "server/config.h"
#include "server/delivery.h"
#include "server/served_model.h"
#include "server/server_metrics.h"
#include "server/text_pool.h"

namespace farspan {

// Immutable; the parts are thread-safe and outlive every call.
struct ServingContext {
  const ServerConfig* config = nullptr;
  std::vector<ConfigValue> config_values;
  ServedModel* model = nullptr;
  AdmissionGate* gate = nullptr;
  CallRegistry* calls = nullptr;
  TextPool* text_pool = nullptr;
  Delivery* delivery = nullptr;
  ServerMetrics* metrics = nullptr;
};

// Unique in this process and over restarts, for logs and errors.
std::string NewRequestId();

// The call's deadline on the monotonic clock; without one, `max_request_seconds` from now.
bool HasDeadline(const grpc::CallbackServerContext& context);
SteadyTime DeadlineOf(const grpc::CallbackServerContext& context, const ServerConfig& config);

// Whether a call that its client ended now was ended because of its deadline. The client's clock started a transit
// before ours, so that its end comes a little before our deadline; the engine then ends the request, with that reason.
bool IsEndOfDeadline(SteadyTime deadline, SteadyTime now);

// INVALID_ARGUMENT when a request message is above max_request_bytes.
absl::Status CheckRequestSize(int64_t bytes, const ServerConfig& config);

// Adds when to come back to a failure that another attempt may escape, unless it says so already.
absl::Status WithRetryHint(absl::Status status, AdmissionGate* gate);

CallOrigin OriginOf(const grpc::CallbackServerContext& context, const ServerConfig& config);
CallFacts FactsOf(const CallLog& log, SteadyTime deadline, const ServerConfig& config);

// What every call passes before any work is done for it. On failure the two may be taken or not.
absl::Status AdmitCall(const grpc::CallbackServerContext& context, const CallLog& log, GateRequest request,
                       const ServingContext& serving, CallSlot* slot, AdmissionTicket* ticket);
// What a call ends with that was admitted and then found no place in the text pool.
absl::Status TextPoolFull();

// Hands a parsed request to the engine; its events go to `listener`. On failure the listener is never called, and the
// status says what the error contract says.
absl::StatusOr<std::shared_ptr<DeliverySink>> StartGeneration(ParsedGeneration generation,
                                                              std::shared_ptr<GenerationListener> listener,
                                                              const ServingContext& serving);

}  // namespace farspan
