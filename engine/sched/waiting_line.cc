// SPDX-License-Identifier: Apache-2.0
#include "engine/sched/waiting_line.h"

#include <algorithm>
#include <tuple>

#include "engine/base/check.h"

namespace farspan {

void WaitingLine::Add(const Sequence* sequence) {
  const Request& request = sequence->request();
  const SteadyDuration waited = std::max(SteadyDuration::zero(), now_ - request.arrival);
  const int64_t aged = ageing_ > SteadyDuration::zero() ? waited / ageing_ : 0;
  line_.push_back({.sequence = sequence,
                   .priority = request.priority - aged,
                   .served_tokens = fair_queue_->served_tokens(request.tenant)});
}

const Sequence& WaitingLine::Front() const { return *Best()->sequence; }

const Sequence& WaitingLine::Pop() {
  const auto best = Best();
  const Sequence& sequence = *best->sequence;
  line_.erase(best);
  return sequence;
}

void WaitingLine::Charge(const std::string& tenant, int64_t tokens) {
  for (Place& place : line_) {
    if (place.sequence->request().tenant == tenant) place.served_tokens += tokens;
  }
}

std::vector<WaitingLine::Place>::const_iterator WaitingLine::Best() const {
  FARSPAN_CHECK(!line_.empty());
  const auto key = [](const Place& place) {
    return std::tuple(place.priority, place.served_tokens, place.sequence->id());
  };
  return std::min_element(line_.begin(), line_.end(), [&](const Place& a, const Place& b) { return key(a) < key(b); });
}

}  // namespace farspan
