// SPDX-License-Identifier: Apache-2.0
#include "clients/cpp/client.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "clients/cpp/status_from_grpc.h"
#include "farspan/v1/comparison.grpc.pb.h"
#include "farspan/v1/inference.grpc.pb.h"
#include "farspan/v1/model.grpc.pb.h"
#include "grpc/health/v1/health.grpc.pb.h"

namespace farspan {

struct Client::Stubs {
  explicit Stubs(const std::shared_ptr<grpc::Channel>& channel)
      : inference(channel), comparison(channel), model(channel), health(channel) {}

  // Stubs are thread-safe; their methods are merely not declared const.
  mutable v1::InferenceService::Stub inference;
  mutable v1::ComparisonService::Stub comparison;
  mutable v1::ModelService::Stub model;
  mutable grpc::health::v1::Health::Stub health;
};

namespace {

bool IsTarget(const std::string& target) {
  if (target.rfind("unix:", 0) == 0) return target.size() > 5;
  const size_t colon = target.rfind(':');
  if (colon == std::string::npos || colon == 0) return false;
  const std::string host = target.substr(0, colon);
  if (host.find(':') != std::string::npos && (host.front() != '[' || host.back() != ']')) return false;
  int port = 0;
  return absl::SimpleAtoi(target.substr(colon + 1), &port) && port > 0 && port <= 65535;
}

grpc::ChannelArguments ArgumentsFor(const ClientOptions& options) {
  const auto clamped = [](int64_t value) {
    return static_cast<int>(std::min<int64_t>(value, std::numeric_limits<int>::max()));
  };
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(clamped(options.max_message_bytes));
  arguments.SetMaxSendMessageSize(clamped(options.max_message_bytes));
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, clamped(options.keepalive_interval.count()));
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, clamped(options.keepalive_timeout.count()));
  // A long prefill is silent: probing must go on without data.
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // The library would send even loopback calls through the proxy of the environment.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, options.own_connection ? 1 : 0);
  return arguments;
}

bool IsPrintable(const std::string& text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= ' ' && c <= '~'; });
}

// The library would end the process over metadata that HTTP/2 cannot carry.
absl::Status Check(const CallOptions& options) {
  if (!IsPrintable(options.traceparent)) {
    return absl::InvalidArgumentError("traceparent: must be printable ASCII");
  }
  return options.tenant.empty() ? absl::OkStatus() : CheckTenant(options.tenant);
}

// Options that Check takes.
void Apply(const CallOptions& options, grpc::ClientContext* context) {
  if (!options.tenant.empty()) context->AddMetadata("x-farspan-tenant", options.tenant);
  if (!options.traceparent.empty()) context->AddMetadata("traceparent", options.traceparent);
  if (options.timeout) {
    context->set_deadline(std::chrono::system_clock::now() +
                          std::chrono::duration_cast<std::chrono::system_clock::duration>(*options.timeout));
  }
}

// Cancels a call of this thread while it lives.
class CancelOnStop {
 public:
  CancelOnStop(const CallOptions& options, grpc::ClientContext* context) : callback_(options.stop, Cancel{context}) {}

 private:
  struct Cancel {
    grpc::ClientContext* context;
    void operator()() const { context->TryCancel(); }
  };
  std::stop_callback<Cancel> callback_;
};

template <typename Event>
absl::Status ReadAll(grpc::ClientReader<Event>* reader, absl::FunctionRef<bool(const Event&)> on_event,
                     grpc::ClientContext* context) {
  Event event;
  bool wanted = true;
  while (wanted && reader->Read(&event)) wanted = on_event(event);
  if (!wanted) {
    context->TryCancel();
    while (reader->Read(&event)) {
    }
  }
  return StatusFromGrpc(reader->Finish());
}

template <typename Response, typename Call>
absl::StatusOr<Response> CallOnce(const CallOptions& options, Call call) {
  if (absl::Status status = Check(options); !status.ok()) return status;
  grpc::ClientContext context;
  Apply(options, &context);
  const CancelOnStop cancel(options, &context);
  Response response;
  absl::Status status = StatusFromGrpc(call(&context, &response));
  if (!status.ok()) return status;
  return response;
}

// One pushed call. Owns itself from Begin to OnDone.
template <typename Request, typename Event>
class StreamReactor final : public grpc::ClientReadReactor<Event> {
 public:
  StreamReactor(Request request, std::shared_ptr<EventStream<Event>> stream, const CallOptions& options)
      : request_(std::move(request)), stream_(std::move(stream)) {
    Apply(options, context_.get());
  }

  template <typename AsyncStub, typename Method>
  void Begin(AsyncStub* stub, Method method, const CallOptions& options) {
    (stub->*method)(context_.get(), &request_, this);
    cancel_.emplace(options, context_.get());
    this->StartRead(&event_);
    this->StartCall();
  }

  const std::shared_ptr<grpc::ClientContext>& context() const { return context_; }

 private:
  void OnReadDone(bool ok) override {
    if (!ok) return;
    stream_->OnEvent(event_);
    this->StartRead(&event_);
  }

  void OnDone(const grpc::Status& status) override {
    cancel_.reset();
    stream_->OnDone(StatusFromGrpc(status));
    delete this;
  }

  const std::shared_ptr<grpc::ClientContext> context_ = std::make_shared<grpc::ClientContext>();
  const Request request_;
  const std::shared_ptr<EventStream<Event>> stream_;
  std::optional<CancelOnStop> cancel_;
  Event event_;
};

}  // namespace

absl::Status CheckTenant(const std::string& tenant) {
  constexpr size_t kMaxBytes = 64;
  if (tenant.empty() || tenant.size() > kMaxBytes || tenant.front() == ' ' || tenant.back() == ' ' ||
      !IsPrintable(tenant)) {
    return absl::InvalidArgumentError(absl::StrCat("must be 1 to ", kMaxBytes,
                                                   " printable ASCII characters without spaces at its ends, got '",
                                                   absl::CHexEscape(tenant.substr(0, kMaxBytes)), "'"));
  }
  return absl::OkStatus();
}

Client::Client(std::shared_ptr<const Stubs> stubs) : stubs_(std::move(stubs)) {}

absl::StatusOr<Client> Client::Connect(const std::string& target, const ClientOptions& options) {
  if (!IsTarget(target)) {
    return absl::InvalidArgumentError(
        absl::StrCat("server address: must be HOST:PORT or unix:PATH, got '", target, "'"));
  }
  return Client(std::make_shared<const Stubs>(grpc::CreateCustomChannel(
      target, options.credentials ? options.credentials : grpc::InsecureChannelCredentials(), ArgumentsFor(options))));
}

absl::Status Client::Generate(const v1::GenerateRequest& request,
                              absl::FunctionRef<bool(const v1::GenerateResponse&)> on_event,
                              const CallOptions& options) const {
  if (absl::Status status = Check(options); !status.ok()) return status;
  grpc::ClientContext context;
  Apply(options, &context);
  const CancelOnStop cancel(options, &context);
  return ReadAll<v1::GenerateResponse>(stubs_->inference.Generate(&context, request).get(), on_event, &context);
}

absl::Status Client::ComparePolicies(const v1::ComparePoliciesRequest& request,
                                     absl::FunctionRef<bool(const v1::ComparePoliciesResponse&)> on_event,
                                     const CallOptions& options) const {
  if (absl::Status status = Check(options); !status.ok()) return status;
  grpc::ClientContext context;
  Apply(options, &context);
  const CancelOnStop cancel(options, &context);
  return ReadAll<v1::ComparePoliciesResponse>(stubs_->comparison.ComparePolicies(&context, request).get(), on_event,
                                              &context);
}

void Client::Start(const v1::GenerateRequest& request, std::shared_ptr<GenerateStream> stream,
                   const CallOptions& options) const {
  if (const absl::Status status = Check(options); !status.ok()) return stream->OnDone(status);
  auto* reactor = new StreamReactor<v1::GenerateRequest, v1::GenerateResponse>(request, stream, options);
  stream->Attach(reactor->context());
  using Stub = v1::InferenceService::StubInterface::async_interface;
  reactor->Begin(static_cast<Stub*>(stubs_->inference.async()), &Stub::Generate, options);
}

void Client::Start(const v1::ComparePoliciesRequest& request, std::shared_ptr<ComparisonStream> stream,
                   const CallOptions& options) const {
  if (const absl::Status status = Check(options); !status.ok()) return stream->OnDone(status);
  auto* reactor = new StreamReactor<v1::ComparePoliciesRequest, v1::ComparePoliciesResponse>(request, stream, options);
  stream->Attach(reactor->context());
  using Stub = v1::ComparisonService::StubInterface::async_interface;
  reactor->Begin(static_cast<Stub*>(stubs_->comparison.async()), &Stub::ComparePolicies, options);
}

absl::StatusOr<v1::TokenizeResponse> Client::Tokenize(const v1::TokenizeRequest& request,
                                                      const CallOptions& options) const {
  return CallOnce<v1::TokenizeResponse>(options, [&](grpc::ClientContext* context, v1::TokenizeResponse* response) {
    return stubs_->inference.Tokenize(context, request, response);
  });
}

absl::StatusOr<v1::DetokenizeResponse> Client::Detokenize(const v1::DetokenizeRequest& request,
                                                          const CallOptions& options) const {
  return CallOnce<v1::DetokenizeResponse>(options, [&](grpc::ClientContext* context, v1::DetokenizeResponse* response) {
    return stubs_->inference.Detokenize(context, request, response);
  });
}

absl::StatusOr<v1::GetServerInfoResponse> Client::GetServerInfo(const CallOptions& options) const {
  return CallOnce<v1::GetServerInfoResponse>(
      options, [&](grpc::ClientContext* context, v1::GetServerInfoResponse* response) {
        return stubs_->model.GetServerInfo(context, v1::GetServerInfoRequest(), response);
      });
}

absl::StatusOr<v1::ListAttentionPoliciesResponse> Client::ListAttentionPolicies(const CallOptions& options) const {
  return CallOnce<v1::ListAttentionPoliciesResponse>(
      options, [&](grpc::ClientContext* context, v1::ListAttentionPoliciesResponse* response) {
        return stubs_->model.ListAttentionPolicies(context, v1::ListAttentionPoliciesRequest(), response);
      });
}

absl::StatusOr<grpc::health::v1::HealthCheckResponse::ServingStatus> Client::CheckHealth(
    const std::string& service, const CallOptions& options) const {
  grpc::health::v1::HealthCheckRequest request;
  request.set_service(service);
  const auto response = CallOnce<grpc::health::v1::HealthCheckResponse>(
      options, [&](grpc::ClientContext* context, grpc::health::v1::HealthCheckResponse* answer) {
        return stubs_->health.Check(context, request, answer);
      });
  if (!response.ok()) return response.status();
  return response->status();
}

}  // namespace farspan
