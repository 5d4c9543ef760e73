// SPDX-License-Identifier: Apache-2.0
// What the next step does, as a value that holds no resources. Scheduler::Plan makes it, Scheduler::Commit carries it
// out.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/base/ids.h"
#include "engine/sched/sequence.h"

namespace farspan {

struct StepPlan {
  struct Retirement {
    SequenceId id{};
    Outcome outcome;
  };
  struct Run {
    SequenceId id{};
    int64_t num_tokens = 0;  // from the sequence's `computed` on
  };

  std::vector<Retirement> retire;  // leave now; their pages return
  std::vector<SequenceId> admit;   // from the waiting queue, in its order
  std::vector<Run> runs;           // decode rows first, then prefill chunks, each in order of admission

  bool empty() const { return retire.empty() && admit.empty() && runs.empty(); }
};

}  // namespace farspan
