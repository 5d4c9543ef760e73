// SPDX-License-Identifier: Apache-2.0
#include "tests/clients/fake_server.h"

#include <arpa/inet.h>
#include <grpcpp/health_check_service_interface.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "google/rpc/status.pb.h"

namespace farspan {
namespace {

grpc::Status NoHandler() { return {grpc::StatusCode::UNIMPLEMENTED, "no handler"}; }

}  // namespace

class FakeServer::Services final {
 public:
  FakeHandlers handlers;

  void RegisterIn(grpc::ServerBuilder* builder) {
    builder->RegisterService(&inference_);
    builder->RegisterService(&comparison_);
    builder->RegisterService(&model_);
  }

 private:
  class Inference final : public v1::InferenceService::Service {
   public:
    explicit Inference(FakeHandlers* handlers) : handlers_(handlers) {}
    grpc::Status Generate(grpc::ServerContext* context, const v1::GenerateRequest* request,
                          grpc::ServerWriter<v1::GenerateResponse>* writer) override {
      if (handlers_->metadata) handlers_->metadata(context->client_metadata());
      return handlers_->generate ? handlers_->generate(*request, writer) : NoHandler();
    }
    grpc::Status Tokenize(grpc::ServerContext* /*context*/, const v1::TokenizeRequest* request,
                          v1::TokenizeResponse* response) override {
      return handlers_->tokenize ? handlers_->tokenize(*request, response) : NoHandler();
    }
    grpc::Status Detokenize(grpc::ServerContext* /*context*/, const v1::DetokenizeRequest* request,
                            v1::DetokenizeResponse* response) override {
      return handlers_->detokenize ? handlers_->detokenize(*request, response) : NoHandler();
    }

   private:
    FakeHandlers* const handlers_;
  };

  class Comparison final : public v1::ComparisonService::Service {
   public:
    explicit Comparison(FakeHandlers* handlers) : handlers_(handlers) {}
    grpc::Status ComparePolicies(grpc::ServerContext* /*context*/, const v1::ComparePoliciesRequest* request,
                                 grpc::ServerWriter<v1::ComparePoliciesResponse>* writer) override {
      return handlers_->compare ? handlers_->compare(*request, writer) : NoHandler();
    }

   private:
    FakeHandlers* const handlers_;
  };

  class Model final : public v1::ModelService::Service {
   public:
    explicit Model(FakeHandlers* handlers) : handlers_(handlers) {}
    grpc::Status GetServerInfo(grpc::ServerContext* /*context*/, const v1::GetServerInfoRequest* /*request*/,
                               v1::GetServerInfoResponse* response) override {
      return handlers_->info ? handlers_->info(response) : NoHandler();
    }
    grpc::Status ListAttentionPolicies(grpc::ServerContext* /*context*/,
                                       const v1::ListAttentionPoliciesRequest* /*request*/,
                                       v1::ListAttentionPoliciesResponse* response) override {
      return handlers_->policies ? handlers_->policies(response) : NoHandler();
    }

   private:
    FakeHandlers* const handlers_;
  };

  Inference inference_{&handlers};
  Comparison comparison_{&handlers};
  Model model_{&handlers};
};

FakeServer::FakeServer() : services_(std::make_unique<Services>()) {
  grpc::EnableDefaultHealthCheckService(true);
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.SetMaxReceiveMessageSize(80 << 20);
  services_->RegisterIn(&builder);
  server_ = builder.BuildAndStart();
  target_ = absl::StrCat("127.0.0.1:", port);
}

FakeServer::~FakeServer() { Crash(); }

FakeHandlers& FakeServer::handlers() { return services_->handlers; }

void FakeServer::SetServing(bool serving) { server_->GetHealthCheckService()->SetServingStatus(serving); }

void FakeServer::Crash() { server_->Shutdown(std::chrono::system_clock::now()); }

std::string RefusingTarget() {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  bind(fd, reinterpret_cast<const sockaddr*>(&address), size);
  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  close(fd);
  return absl::StrCat("127.0.0.1:", ntohs(address.sin_port));
}

grpc::Status StatusWith(grpc::StatusCode code, const std::string& message,
                        std::initializer_list<const google::protobuf::Message*> details) {
  google::rpc::Status status;
  status.set_code(code);
  status.set_message(message);
  for (const auto* detail : details) status.add_details()->PackFrom(*detail);
  return {code, message, status.SerializeAsString()};
}

v1::GenerateResponse Started(int64_t prompt_tokens) {
  v1::GenerateResponse event;
  event.mutable_started()->set_request_id("r-1");
  event.mutable_started()->set_model("tiny");
  event.mutable_started()->mutable_sampling()->set_temperature(0);
  event.mutable_started()->mutable_stopping()->set_max_tokens(8);
  event.mutable_started()->set_prompt_tokens_count(prompt_tokens);
  return event;
}

v1::GenerateResponse Progress(int64_t done, int64_t total) {
  v1::GenerateResponse event;
  event.mutable_progress()->set_prefill_tokens_done_count(done);
  event.mutable_progress()->set_prefill_tokens_total_count(total);
  return event;
}

v1::GenerateResponse Delta(const std::string& text, std::initializer_list<int32_t> token_ids) {
  v1::GenerateResponse event;
  event.mutable_delta()->set_text(text);
  for (const int32_t id : token_ids) event.mutable_delta()->add_token_ids(id);
  return event;
}

v1::GenerateResponse Finished() {
  v1::GenerateResponse event;
  v1::GenerationFinished* finished = event.mutable_finished();
  finished->set_finish_reason(v1::FINISH_REASON_LENGTH);
  finished->mutable_usage()->set_prompt_tokens_count(5865);
  finished->mutable_usage()->set_generated_tokens_count(14);
  finished->mutable_timing()->mutable_ttft_duration()->set_seconds(12);
  finished->mutable_timing()->mutable_tpot_duration()->set_nanos(31'000'000);
  finished->mutable_kv()->set_peak_resident_bytes(int64_t{66} << 20);
  finished->mutable_kv()->set_prefill_read_bytes(int64_t{1} << 30);
  finished->mutable_kv()->set_prefill_dense_read_bytes(int64_t{10} << 30);
  finished->mutable_attention()->mutable_window()->set_window_tokens(64);
  return event;
}

}  // namespace farspan
