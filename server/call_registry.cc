// SPDX-License-Identifier: Apache-2.0
#include "server/call_registry.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/error.h"

namespace farspan {

CallSlot& CallSlot::operator=(CallSlot&& other) noexcept {
  if (this != &other) {
    Release();
    registry_ = std::exchange(other.registry_, nullptr);
    peer_ = std::move(other.peer_);
  }
  return *this;
}

void CallSlot::Release() {
  if (registry_ != nullptr) std::exchange(registry_, nullptr)->Leave(peer_);
}

absl::StatusOr<CallSlot> CallRegistry::Enter(const std::string& peer) {
  MutexLock lock(&mutex_);
  const auto calls = calls_by_peer_.find(peer);
  if (calls != calls_by_peer_.end() && calls->second >= max_calls_per_connection_) {
    return MakeError(absl::StatusCode::kResourceExhausted, reason::kConnectionLimit,
                     absl::StrCat("at most ", max_calls_per_connection_, " calls at one time on one connection"));
  }
  ++calls_by_peer_[peer];
  ++num_calls_;
  return CallSlot(this, peer);
}

void CallRegistry::Leave(const std::string& peer) {
  MutexLock lock(&mutex_);
  const auto calls = calls_by_peer_.find(peer);
  if (--calls->second == 0) calls_by_peer_.erase(calls);
  if (--num_calls_ == 0) idle_changed_.NotifyAll();
}

int64_t CallRegistry::num_calls() const {
  MutexLock lock(&mutex_);
  return num_calls_;
}

bool CallRegistry::WaitIdle(SteadyTime deadline) {
  MutexLock lock(&mutex_);
  while (num_calls_ != 0) {
    if (!idle_changed_.WaitUntil(&mutex_, deadline)) return num_calls_ == 0;
  }
  return true;
}

void CallRegistry::AddStream(std::weak_ptr<StalledCheck> stream) {
  MutexLock lock(&mutex_);
  streams_.push_back(std::move(stream));
}

bool CallRegistry::streams_closed() const {
  MutexLock lock(&mutex_);
  return std::all_of(streams_.begin(), streams_.end(), [](const auto& stream) { return stream.expired(); });
}

void CallRegistry::CheckStalled(SteadyTime now) {
  std::vector<std::shared_ptr<StalledCheck>> live;
  {
    MutexLock lock(&mutex_);
    std::vector<std::weak_ptr<StalledCheck>> kept;
    for (const std::weak_ptr<StalledCheck>& stream : streams_) {
      if (std::shared_ptr<StalledCheck> call = stream.lock()) {
        kept.push_back(stream);
        live.push_back(std::move(call));
      }
    }
    streams_ = std::move(kept);
  }
  for (const std::shared_ptr<StalledCheck>& call : live) call->EndIfStalled(now);
}

}  // namespace farspan
