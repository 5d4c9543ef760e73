// SPDX-License-Identifier: Apache-2.0
#include "server/services.h"

#include <utility>
#include <vector>

#include "engine/base/status_macros.h"
#include "engine/text/utf8.h"
#include "server/comparison_call.h"
#include "server/error.h"
#include "server/generate_call.h"
#include "server/model_description.h"
#include "server/prompt_encoder.h"
#include "server/unary_call.h"

namespace farspan {
namespace {

absl::Status TokenizeText(const v1::TokenizeRequest& request, const ServedModel& model,
                          v1::TokenizeResponse* response) {
  std::vector<FieldViolation> violations = CheckRequest(request);
  if (!request.has_prompt()) violations.push_back({"prompt", "must be set"});
  if (!violations.empty()) return InvalidFields(violations);
  FARSPAN_ASSIGN_OR_RETURN(EncodedPrompt prompt, EncodePrompt(request.prompt(), "prompt", model));
  response->mutable_token_ids()->Assign(prompt.tokens.begin(), prompt.tokens.end());
  for (const TokenId token : prompt.tokens) {
    AppendUtf8Lossy(model.tokenizer->TokenBytes(token), /*final=*/true, *response->add_token_texts());
  }
  response->set_added_system_prompt(std::move(prompt.added_system_prompt));
  response->set_bos_added(prompt.bos_added);
  return absl::OkStatus();
}

absl::Status DetokenizeIds(const v1::DetokenizeRequest& request, const ServedModel& model,
                           v1::DetokenizeResponse* response) {
  const std::vector<FieldViolation> violations = CheckRequest(request);
  if (!violations.empty()) return InvalidFields(violations);
  if (request.token_ids().empty()) return InvalidFields({{"token_ids", "must have at least one element"}});
  FARSPAN_RETURN_IF_ERROR(CheckTokenIds(request.token_ids(), "token_ids", model.shape.vocab_size));
  const std::vector<TokenId> ids(request.token_ids().begin(), request.token_ids().end());
  FARSPAN_ASSIGN_OR_RETURN(*response->mutable_text(), model.tokenizer->Decode(ids));
  return absl::OkStatus();
}

}  // namespace

grpc::ServerWriteReactor<v1::GenerateResponse>* InferenceServiceV1::Generate(grpc::CallbackServerContext* context,
                                                                             const v1::GenerateRequest* request) {
  return GenerateCall::Start(context, request, serving_);
}

grpc::ServerUnaryReactor* InferenceServiceV1::Tokenize(grpc::CallbackServerContext* context,
                                                       const v1::TokenizeRequest* request,
                                                       v1::TokenizeResponse* response) {
  return RunUnaryCall(context, serving_, "Tokenize", *request, *response,
                      [=, model = serving_->model] { return TokenizeText(*request, *model, response); });
}

grpc::ServerUnaryReactor* InferenceServiceV1::Detokenize(grpc::CallbackServerContext* context,
                                                         const v1::DetokenizeRequest* request,
                                                         v1::DetokenizeResponse* response) {
  return RunUnaryCall(context, serving_, "Detokenize", *request, *response,
                      [=, model = serving_->model] { return DetokenizeIds(*request, *model, response); });
}

grpc::ServerWriteReactor<v1::ComparePoliciesResponse>* ComparisonServiceV1::ComparePolicies(
    grpc::CallbackServerContext* context, const v1::ComparePoliciesRequest* request) {
  return ComparisonCall::Start(context, request, serving_);
}

grpc::ServerUnaryReactor* ModelServiceV1::GetServerInfo(grpc::CallbackServerContext* context,
                                                        const v1::GetServerInfoRequest* /*request*/,
                                                        v1::GetServerInfoResponse* response) {
  DescribeServer(*serving_, response);
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

grpc::ServerUnaryReactor* ModelServiceV1::ListAttentionPolicies(grpc::CallbackServerContext* context,
                                                                const v1::ListAttentionPoliciesRequest* /*request*/,
                                                                v1::ListAttentionPoliciesResponse* response) {
  DescribePolicies(*serving_->model, response);
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

}  // namespace farspan
