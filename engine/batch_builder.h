// SPDX-License-Identifier: Apache-2.0
// From what a step runs and what the policies say to the flat arrays of one forward pass, with the bytes it will read.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/attention/plan.h"
#include "engine/base/model_shape.h"
#include "engine/kv/block_table.h"
#include "engine/model/forward_batch.h"
#include "engine/output.h"
#include "engine/sampling/draw.h"
#include "engine/sched/scheduler.h"
#include "engine/sched/step_plan.h"

namespace farspan {

// One sequence's share of a batch.
struct BatchRun {
  SequenceId id{};
  int64_t num_tokens = 0;
  bool prefill = false;
  int64_t first_draw = 0;  // index into BuiltBatch::draws
  int64_t num_draws = 0;
  TokenRange drop;  // tokens that no later query reads
  AttentionTraffic traffic;
};

struct BuiltBatch {
  ForwardBatch forward;
  std::vector<BatchRun> runs;  // in the order of their rows: decode rows first
  // One a logit row: a run's prompt tokens whose log-probabilities are reported, then what follows its last known
  // token.
  std::vector<DrawRequest> draws;
};

// The batch of a committed plan: each sequence's pages are taken and its tokens in flight. Asks each policy once a
// decode row or prefill chunk. A token that the step begun before this one draws is a DrawnTokenId.
BuiltBatch BuildBatch(const StepPlan& plan, const ModelShape& shape, Scheduler* scheduler);

// What one sequence reads, as the arrays of a batch: a decode row that is or becomes row `row`, or a prompt's chunk
// whose rows are appended next. The tokens that the plan names are resident in `pages`.
void AppendDecodeAttention(const AttentionPlan& plan, int64_t row, TokenRange query, const BlockTable& pages,
                           const ModelShape& shape, ForwardBatch* batch);
void AppendPrefillAttention(const AttentionPlan& plan, TokenRange queries, const BlockTable& pages,
                            const ModelShape& shape, ForwardBatch* batch);

}  // namespace farspan
