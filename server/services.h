// SPDX-License-Identifier: Apache-2.0
// The gRPC services: one short method for each call. Nothing slow runs on a gRPC thread.
#pragma once

#include "farspan/v1/comparison.grpc.pb.h"
#include "farspan/v1/inference.grpc.pb.h"
#include "farspan/v1/model.grpc.pb.h"
#include "server/serving_context.h"

namespace farspan {

// Thread-safe; `serving` outlives them.
class InferenceServiceV1 final : public v1::InferenceService::CallbackService {
 public:
  explicit InferenceServiceV1(const ServingContext* serving) : serving_(serving) {}

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(grpc::CallbackServerContext* context,
                                                           const v1::GenerateRequest* request) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context, const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context, const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override;

 private:
  const ServingContext* const serving_;
};

class ComparisonServiceV1 final : public v1::ComparisonService::CallbackService {
 public:
  explicit ComparisonServiceV1(const ServingContext* serving) : serving_(serving) {}

  grpc::ServerWriteReactor<v1::ComparePoliciesResponse>* ComparePolicies(
      grpc::CallbackServerContext* context, const v1::ComparePoliciesRequest* request) override;

 private:
  const ServingContext* const serving_;
};

class ModelServiceV1 final : public v1::ModelService::CallbackService {
 public:
  explicit ModelServiceV1(const ServingContext* serving) : serving_(serving) {}

  grpc::ServerUnaryReactor* GetServerInfo(grpc::CallbackServerContext* context, const v1::GetServerInfoRequest* request,
                                          v1::GetServerInfoResponse* response) override;
  grpc::ServerUnaryReactor* ListAttentionPolicies(grpc::CallbackServerContext* context,
                                                  const v1::ListAttentionPoliciesRequest* request,
                                                  v1::ListAttentionPoliciesResponse* response) override;

 private:
  const ServingContext* const serving_;
};

}  // namespace farspan
