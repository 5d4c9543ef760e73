// SPDX-License-Identifier: Apache-2.0
// The calls in progress: how many there are in all and on each connection, and which of them stream.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "engine/base/clock.h"
#include "engine/base/mutex.h"

namespace farspan {

class CallRegistry;

// A stream whose client may stop reading.
class StalledCheck {
 public:
  virtual ~StalledCheck() = default;
  // Ends the call if its client has not read for too long. Delivery thread.
  virtual void EndIfStalled(SteadyTime now) = 0;
};

// One call in progress; ends on destruction. Move-only.
class CallSlot {
 public:
  CallSlot() = default;
  ~CallSlot() { Release(); }
  CallSlot(CallSlot&& other) noexcept
      : registry_(std::exchange(other.registry_, nullptr)), peer_(std::move(other.peer_)) {}
  CallSlot& operator=(CallSlot&& other) noexcept;
  CallSlot(const CallSlot&) = delete;
  CallSlot& operator=(const CallSlot&) = delete;

  void Release();

 private:
  friend class CallRegistry;
  CallSlot(CallRegistry* registry, std::string peer) : registry_(registry), peer_(std::move(peer)) {}

  CallRegistry* registry_ = nullptr;
  std::string peer_;
};

// Thread-safe. Outlives its slots.
class CallRegistry {
 public:
  explicit CallRegistry(int64_t max_calls_per_connection) : max_calls_per_connection_(max_calls_per_connection) {}

  // `peer` names the connection. RESOURCE_EXHAUSTED (CONNECTION_LIMIT) when it has its share; the number that HTTP/2
  // advertises binds only clients that wish to be bound.
  absl::StatusOr<CallSlot> Enter(const std::string& peer);

  int64_t num_calls() const;
  // True once no call is in progress; false at the deadline.
  bool WaitIdle(SteadyTime deadline);

  // Expired streams are forgotten by the next CheckStalled.
  void AddStream(std::weak_ptr<StalledCheck> stream);
  void CheckStalled(SteadyTime now);
  // Whether gRPC is done with every stream, what they had to say included.
  bool streams_closed() const;

 private:
  friend class CallSlot;
  void Leave(const std::string& peer);

  const int64_t max_calls_per_connection_;
  mutable Mutex mutex_;
  CondVar idle_changed_;
  int64_t num_calls_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::flat_hash_map<std::string, int64_t> calls_by_peer_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::weak_ptr<StalledCheck>> streams_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace farspan
