// SPDX-License-Identifier: Apache-2.0
// A whole server in the test's process, on free ports, with a tiny checkpoint; and the calls that tests make of it.
#pragma once

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <vector>

#include "farspan/v1/comparison.grpc.pb.h"
#include "farspan/v1/inference.grpc.pb.h"
#include "farspan/v1/model.grpc.pb.h"
#include "google/rpc/error_details.pb.h"
#include "server/log_writer.h"
#include "server/server.h"
#include "tests/support/tiny_checkpoint.h"

namespace farspan {

// What a Generate call said.
struct Generated {
  grpc::Status status;
  v1::GenerationStarted started;
  v1::GenerationFinished finished;
  std::string text;
  std::vector<int32_t> token_ids;
  bool saw_initial_metadata = false;  // false for a reply of trailers alone
  std::string pushback_ms;
};

// Owned by one test.
class ServerHarness {
 public:
  // `flags` come after those that every test needs.
  explicit ServerHarness(std::vector<std::string> flags = {}, const TinyCheckpointOptions& checkpoint = {});
  ~ServerHarness();

  Server& server() { return *server_; }
  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }
  v1::InferenceService::Stub& inference() { return *inference_; }
  v1::ComparisonService::Stub& comparison() { return *comparison_; }
  v1::ModelService::Stub& model() { return *model_; }

  Generated Generate(const v1::GenerateRequest& request, grpc::ClientContext* context);
  Generated Generate(const v1::GenerateRequest& request);
  // Of the admin port.
  std::pair<int, std::string> Get(const std::string& path);
  // Everything logged so far.
  std::string Log();
  // Waits until the engine holds neither requests nor pages.
  bool WaitForIdlePages();

 private:
  TinyCheckpoint checkpoint_;
  int log_fd_;
  std::unique_ptr<LogWriter> log_;
  std::unique_ptr<Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::InferenceService::Stub> inference_;
  std::unique_ptr<v1::ComparisonService::Stub> comparison_;
  std::unique_ptr<v1::ModelService::Stub> model_;
};

// Status and body of a GET of the local port; status 0 when there is no answer.
std::pair<int, std::string> HttpGet(int64_t port, const std::string& path);

// A greedy request of `max_tokens` that ignores the end of generation.
v1::GenerateRequest GreedyRequest(const std::string& prompt, int64_t max_tokens);

// The one ErrorInfo of a status; empty where there is none or more than one.
google::rpc::ErrorInfo ErrorInfoOf(const grpc::Status& status);

}  // namespace farspan
