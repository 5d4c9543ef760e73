// SPDX-License-Identifier: Apache-2.0
// One ComparePolicies call: a generation under the reference and under each policy, then the reference's tokens scored
// under the policies whose own output differs, then the table.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "farspan/v1/comparison.pb.h"
#include "server/call_log.h"
#include "server/request_parser.h"
#include "server/serving_context.h"
#include "server/stream_reactor.h"

namespace farspan {

// Thread-safe. Kept alive by itself until gRPC is done with it, and by its runs until they have ended.
class ComparisonCall final : public StreamReactor<v1::ComparePoliciesResponse>,
                             public std::enable_shared_from_this<ComparisonCall> {
 public:
  // gRPC thread. `request` lives as long as the call.
  static grpc::ServerWriteReactor<v1::ComparePoliciesResponse>* Start(grpc::CallbackServerContext* context,
                                                                      const v1::ComparePoliciesRequest* request,
                                                                      const ServingContext* serving);

  void OnCancel() override;

 private:
  using Phase = v1::PolicyRunEvent::Phase;
  class RunListener;

  // A row of the table while it is being filled.
  struct Row {
    ParsedGeneration generation;
    v1::ComparisonRow result;
    std::vector<TokenId> tokens;
    std::vector<double> own_logprobs;                   // of `tokens`
    std::optional<std::vector<double>> score_logprobs;  // of the reference's tokens
  };
  struct Run {
    size_t row = 0;
    Phase phase = v1::PolicyRunEvent::PHASE_GENERATE;
  };

  ComparisonCall(grpc::CallbackServerContext* context, const v1::ComparePoliciesRequest* request,
                 const ServingContext* serving);

  bool TryMerge(v1::ComparePoliciesResponse* back, v1::ComparePoliciesResponse& next) override;
  void OnClosed() override { self_.reset(); }

  absl::Status Admit();
  // Text pool.
  void Parse();
  // Starts waiting runs: one, or all of a phase when concurrent; ends the call when none is left or one has failed.
  void Advance() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status StartRun(const Run& run) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void QueueScoringRuns() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnRunResponse(const Run& run, v1::GenerateResponse response);
  void OnRunEnd(const Run& run, const GenerationOutcome& outcome);
  void Collect(const Run& run, const v1::GenerateResponse& response) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  v1::ComparePoliciesResponse Table() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Counts every row but the reference's.
  void CountRows(const v1::ComparisonFinished& table) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EndCall(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const v1::ComparePoliciesRequest* const request_;
  const ServingContext* const serving_;
  const SteadyTime deadline_;
  const bool has_deadline_;
  std::shared_ptr<ComparisonCall> self_;
  Mutex mutex_;
  CallLog log_ ABSL_GUARDED_BY(mutex_);
  CallSlot slot_ ABSL_GUARDED_BY(mutex_);
  AdmissionTicket ticket_ ABSL_GUARDED_BY(mutex_);
  std::vector<Row> rows_ ABSL_GUARDED_BY(mutex_);
  std::vector<Run> waiting_ ABSL_GUARDED_BY(mutex_);  // in reverse: the next one is last
  std::vector<std::shared_ptr<DeliverySink>> live_ ABSL_GUARDED_BY(mutex_);
  int64_t num_running_ ABSL_GUARDED_BY(mutex_) = 0;
  bool accepted_ ABSL_GUARDED_BY(mutex_) = false;
  bool scored_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace farspan
