// SPDX-License-Identifier: Apache-2.0
// The border of the engine thread: requests on their way in, limits on how many wait, and the published state.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "engine/base/mutex.h"
#include "engine/engine.h"
#include "engine/request_handle.h"
#include "engine/sched/page_chain.h"

namespace farspan {

// A request that the engine has accepted and its thread has not seen yet.
struct Submission {
  Request request;
  std::shared_ptr<RequestHandle> handle;
  std::shared_ptr<OutputSink> sink;
  int64_t max_pages = 0;  // of each of its samples
  PromptKeys prompt_keys;
};

// Thread-safe. Each sample of a request counts as queued from Offer until its OnLeftQueue; the prompt counts with the
// first of them.
class EngineInbox {
 public:
  EngineInbox(const EngineConfig& config, int64_t kv_pages_total);

  // RESOURCE_EXHAUSTED at a queue limit, UNAVAILABLE when draining or faulted; else the request is in.
  absl::Status Offer(Submission submission);
  // What Offer would say now; nothing is taken.
  absl::Status Check(const Request& request) const;
  void Close();  // refuses from now on

  // For the engine thread.
  std::vector<Submission> TakeAll();
  void OnLeftQueue(const std::string& tenant, int64_t prompt_tokens);
  void OnEnded();
  void Publish(const EngineGauges& gauges, int64_t steps, SteadyTime now);
  void PublishFault(absl::Status fault);

  void RequestStop();
  bool stopping() const;
  void RequestCancelAll();
  bool TakeCancelAll();

  EngineStats stats() const;
  int64_t requests_queued_of(const std::string& tenant) const;
  // True once no accepted request is live.
  bool WaitIdle(SteadyTime deadline);
  const std::shared_ptr<Doorbell>& doorbell() const { return doorbell_; }

 private:
  absl::Status CheckLocked(const Request& request) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int64_t max_queued_requests_;
  const int64_t max_queued_tokens_;
  const int64_t max_queued_requests_per_tenant_;
  const std::shared_ptr<Doorbell> doorbell_ = std::make_shared<Doorbell>();

  mutable Mutex mutex_;
  CondVar idle_changed_;
  std::vector<Submission> submissions_ ABSL_GUARDED_BY(mutex_);
  int64_t num_live_ ABSL_GUARDED_BY(mutex_) = 0;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancel_all_ ABSL_GUARDED_BY(mutex_) = false;
  EngineStats stats_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<std::string, int64_t> queued_by_tenant_ ABSL_GUARDED_BY(mutex_);  // those with any
};

}  // namespace farspan
