// SPDX-License-Identifier: Apache-2.0
// One query head walks a list of entries: the arithmetic that decode and prefill attention share.
#pragma once

#include <cstdint>

#include "engine/kernels/args.h"

namespace farspan::kernels::portable {

// What one query head reads: entries of one KV head in list order.
struct QueryWalk {
  const AttentionCommon* common;
  const KvEntry* entries;
  int64_t num_entries;
  int64_t kv_head;
  int64_t head_in_group;
  int64_t row;  // of the batch, for rope_cos_sin
  int64_t position;
  int64_t left_window;
  const float* q;  // [head_dim]
};

// The unnormalised state: out[d] = sum of exp(s - maximum) * v[d], denominator = sum of exp(s - maximum).
struct SoftmaxState {
  float maximum;
  float denominator;
  float* out;  // [head_dim]
};

int64_t WalkScratchBytes(const AttentionCommon& common);

// The state in which nothing was seen.
void ResetState(int64_t head_dim, SoftmaxState* state);

// Folds every visible token into `*state`, one update a run of entries of one page.
void FoldEntries(const QueryWalk& walk, void* scratch, SoftmaxState* state);

// Normalises `state` into out [head_dim] and *lse (skipped where null): zero and -infinity where nothing was seen.
void FinishState(const SoftmaxState& state, int64_t head_dim, float* out, float* lse);

}  // namespace farspan::kernels::portable
