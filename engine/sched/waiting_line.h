// SPDX-License-Identifier: Apache-2.0
// WaitingLine: the order in which waiting requests come up: by priority, one step better for each `ageing` waited; then
// the tenant that was given the fewest tokens; then arrival.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/base/clock.h"
#include "engine/sched/fair_queue.h"
#include "engine/sched/sequence.h"

namespace farspan {

// One thread, for one plan. The sequences and the queue outlive it. Cost: Add and Pop are linear in who waits.
class WaitingLine {
 public:
  WaitingLine(const FairQueue* fair_queue, SteadyTime now, SteadyDuration ageing)
      : fair_queue_(fair_queue), now_(now), ageing_(ageing) {}

  void Add(const Sequence* sequence);
  bool empty() const { return line_.empty(); }
  // The next in order; there must be one. Pop also takes it out.
  const Sequence& Front() const;
  const Sequence& Pop();
  // The plan gives tokens to a tenant.
  void Charge(const std::string& tenant, int64_t tokens);

 private:
  struct Place {
    const Sequence* sequence = nullptr;
    int64_t priority = 0;  // after ageing
    int64_t served_tokens = 0;
  };
  std::vector<Place>::const_iterator Best() const;

  const FairQueue* const fair_queue_;
  const SteadyTime now_;
  const SteadyDuration ageing_;
  std::vector<Place> line_;
};

}  // namespace farspan
