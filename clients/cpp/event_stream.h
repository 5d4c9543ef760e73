// SPDX-License-Identifier: Apache-2.0
// A running call whose events are pushed. Derive from GenerateStream or ComparisonStream, hand it to Client::Start.
#pragma once

#include <memory>
#include <mutex>

#include "absl/status/status.h"
#include "farspan/v1/comparison.pb.h"
#include "farspan/v1/inference.pb.h"

namespace grpc {
class ClientContext;
}

namespace farspan {

// The part of a stream that does not depend on its events. Thread-safe.
class CancellableCall {
 public:
  CancellableCall() = default;
  virtual ~CancellableCall() = default;
  CancellableCall(const CancellableCall&) = delete;
  CancellableCall& operator=(const CancellableCall&) = delete;

  // Ends the call; OnDone follows with CANCELLED unless it had ended already. Before the start: it ends as it starts.
  void Cancel();

 private:
  friend class Client;
  void Attach(std::shared_ptr<grpc::ClientContext> context);

  std::mutex mutex_;
  std::shared_ptr<grpc::ClientContext> context_;
  bool cancelled_ = false;
};

// OnEvent and OnDone run on the client's own threads, one at a time and in order. They must return soon: until OnEvent
// returns no further event is read. The call holds a reference to the stream until OnDone has returned.
template <typename Event>
class EventStream : public CancellableCall {
 public:
  virtual void OnEvent(const Event& event) = 0;
  // Last and exactly once.
  virtual void OnDone(const absl::Status& status) = 0;
};

using GenerateStream = EventStream<v1::GenerateResponse>;
using ComparisonStream = EventStream<v1::ComparePoliciesResponse>;

}  // namespace farspan
