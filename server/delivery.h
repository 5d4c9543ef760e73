// SPDX-License-Identifier: Apache-2.0
// The thread between the engine and gRPC: it turns tokens into text and hands events to calls, so that the engine
// thread does neither.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "engine/base/mutex.h"
#include "engine/output.h"
#include "engine/request_handle.h"
#include "server/generation_stream.h"

namespace farspan {

class Delivery;

// The engine's sink of one request. Waiting events are bounded by what a request may generate.
class DeliverySink final : public OutputSink, public std::enable_shared_from_this<DeliverySink> {
 public:
  DeliverySink(Delivery* delivery, std::unique_ptr<GenerationStream> stream);

  // Engine thread.
  void OnEvent(OutputEvent event) override;

  // After the engine has accepted the request. Thread-safe.
  void SetHandle(std::shared_ptr<RequestHandle> handle);
  // Also before SetHandle. Thread-safe.
  void Cancel();

 private:
  friend class Delivery;
  // Delivery thread.
  void Deliver();
  void StopSample(int sample);

  Delivery* const delivery_;
  const std::unique_ptr<GenerationStream> stream_;  // delivery thread only
  Mutex mutex_;
  std::vector<OutputEvent> events_ ABSL_GUARDED_BY(mutex_);
  bool scheduled_ ABSL_GUARDED_BY(mutex_) = false;
  std::shared_ptr<RequestHandle> handle_ ABSL_GUARDED_BY(mutex_);
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<int> stopped_samples_ ABSL_GUARDED_BY(mutex_);  // before the handle was known
};

// Thread-safe. Destroyed after the engine, so that every event arrives.
class Delivery {
 public:
  // `on_tick` runs about once a second on the delivery thread.
  explicit Delivery(std::function<void()> on_tick);
  // Delivers what waits, then joins.
  ~Delivery();
  Delivery(const Delivery&) = delete;
  Delivery& operator=(const Delivery&) = delete;

 private:
  friend class DeliverySink;
  void Schedule(std::shared_ptr<DeliverySink> sink);
  void Run();

  const std::function<void()> on_tick_;
  Mutex mutex_;
  CondVar changed_;
  std::deque<std::shared_ptr<DeliverySink>> ready_ ABSL_GUARDED_BY(mutex_);  // each sink at most once
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace farspan
