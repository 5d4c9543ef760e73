// SPDX-License-Identifier: Apache-2.0
// A gRPC server on a loopback port whose answers a test writes as functions.
#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "farspan/v1/comparison.grpc.pb.h"
#include "farspan/v1/inference.grpc.pb.h"
#include "farspan/v1/model.grpc.pb.h"
#include "google/rpc/error_details.pb.h"

namespace farspan {

// Handlers run on the server's threads; set them before the call. Without one a call is answered UNIMPLEMENTED.
struct FakeHandlers {
  // Sees what came with a generation, before it is answered.
  std::function<void(const std::multimap<grpc::string_ref, grpc::string_ref>&)> metadata;
  std::function<grpc::Status(const v1::GenerateRequest&, grpc::ServerWriter<v1::GenerateResponse>*)> generate;
  std::function<grpc::Status(const v1::ComparePoliciesRequest&, grpc::ServerWriter<v1::ComparePoliciesResponse>*)>
      compare;
  std::function<grpc::Status(const v1::TokenizeRequest&, v1::TokenizeResponse*)> tokenize;
  std::function<grpc::Status(const v1::DetokenizeRequest&, v1::DetokenizeResponse*)> detokenize;
  std::function<grpc::Status(v1::GetServerInfoResponse*)> info;
  std::function<grpc::Status(v1::ListAttentionPoliciesResponse*)> policies;
};

class FakeServer {
 public:
  FakeServer();
  ~FakeServer();

  FakeHandlers& handlers();
  const std::string& target() const { return target_; }
  void SetServing(bool serving);
  // Closes all connections without a word; calls end wherever they are. Returns once no handler runs.
  void Crash();

 private:
  class Services;
  std::unique_ptr<Services> services_;
  std::unique_ptr<grpc::Server> server_;
  std::string target_;
};

// A port on which nothing listens.
std::string RefusingTarget();

// A status with google.rpc details.
grpc::Status StatusWith(grpc::StatusCode code, const std::string& message,
                        std::initializer_list<const google::protobuf::Message*> details);

// Events of a generation.
v1::GenerateResponse Started(int64_t prompt_tokens);
v1::GenerateResponse Progress(int64_t done, int64_t total);
v1::GenerateResponse Delta(const std::string& text, std::initializer_list<int32_t> token_ids);
v1::GenerateResponse Finished();

}  // namespace farspan
