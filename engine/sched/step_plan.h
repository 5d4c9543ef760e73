// SPDX-License-Identifier: Apache-2.0
// What the next step does, as a value that holds no resources. Scheduler::Plan makes it, Scheduler::Commit carries it
// out, in the order of the fields.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/base/ids.h"
#include "engine/sched/outcome.h"

namespace farspan {

struct StepPlan {
  // A waiting sample joins its leader, whose prompt is computed, and shares its pages.
  struct Fork {
    SequenceId id{};
    SequenceId leader{};
  };
  struct Retirement {
    SequenceId id{};
    Outcome outcome;
  };
  struct Admission {
    SequenceId id{};
    int64_t cached_pages = 0;    // of its prefix, from the cache
    int64_t queried_tokens = 0;  // that the cache was asked for
  };
  struct Run {
    SequenceId id{};
    int64_t num_tokens = 0;  // from the sequence's `computed` on
  };

  std::vector<Fork> forks;
  std::vector<Retirement> retire;     // leave now; their pages return
  std::vector<SequenceId> preempt;    // leave the batch and wait; their pages return
  std::vector<Admission> admit;       // from the waiting requests
  std::vector<SequenceId> overtaken;  // waiting requests that one behind them has passed
  std::vector<Run> runs;              // decode rows first, then chunks, then what was forked and admitted

  bool empty() const { return forks.empty() && retire.empty() && preempt.empty() && admit.empty() && runs.empty(); }
};

}  // namespace farspan
