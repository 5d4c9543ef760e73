// SPDX-License-Identifier: Apache-2.0
// One Generate call from its first byte to its status.
#pragma once

#include <memory>

#include "farspan/v1/inference.pb.h"
#include "server/call_log.h"
#include "server/generation_listener.h"
#include "server/serving_context.h"
#include "server/stream_reactor.h"

namespace farspan {

// What the log says of a generation.
LoggedGeneration Logged(const ParsedGeneration& generation, const v1::GenerationSpec& spec, const ServedModel& model);

// Folds `next` into `back` where the two are of one kind that streams: deltas, progress.
bool MergeResponses(v1::GenerateResponse* back, v1::GenerateResponse& next);

// Thread-safe. Kept alive by itself until gRPC is done with it, and by the delivery until the request has ended.
class GenerateCall final : public StreamReactor<v1::GenerateResponse>,
                           public GenerationListener,
                           public std::enable_shared_from_this<GenerateCall> {
 public:
  // gRPC thread: takes a ticket and leaves the rest to the text pool. `request` lives as long as the call.
  static grpc::ServerWriteReactor<v1::GenerateResponse>* Start(grpc::CallbackServerContext* context,
                                                               const v1::GenerateRequest* request,
                                                               const ServingContext* serving);

  void OnResponse(v1::GenerateResponse response) override { Push(std::move(response)); }
  void OnEnd(const GenerationOutcome& outcome) override;
  void OnCancel() override;

 private:
  GenerateCall(grpc::CallbackServerContext* context, const v1::GenerateRequest* request, const ServingContext* serving);

  bool TryMerge(v1::GenerateResponse* back, v1::GenerateResponse& next) override { return MergeResponses(back, next); }
  void OnClosed() override { self_.reset(); }

  absl::Status Admit();
  // Text pool.
  void ParseAndSubmit();
  absl::StatusOr<std::shared_ptr<DeliverySink>> Submit();
  // Ends a call that the engine has not accepted.
  void Refuse(const absl::Status& status);
  void Leave();

  const v1::GenerateRequest* const request_;
  const ServingContext* const serving_;
  CallLog log_;
  const SteadyTime deadline_;
  int64_t num_samples_ = 1;             // set before the engine has the request, read by the delivery
  std::shared_ptr<GenerateCall> self_;  // until gRPC is done
  Mutex mutex_;
  CallSlot slot_ ABSL_GUARDED_BY(mutex_);
  AdmissionTicket ticket_ ABSL_GUARDED_BY(mutex_);
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  std::shared_ptr<DeliverySink> sink_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace farspan
