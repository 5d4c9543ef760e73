// SPDX-License-Identifier: Apache-2.0
// What one pass needs so that decode rows can choose blocks: the batch's lists as the device may write them, and the
// key bounds that are stale.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "engine/backend/backend.h"
#include "engine/kv/kv_cache.h"
#include "engine/model/forward_batch.h"

namespace farspan {

// Engine thread only. The backend outlives it.
class BlockSelection {
 public:
  explicit BlockSelection(Backend* backend) : backend_(backend) {}

  // Before a pass: tells `kv` what the batch writes, takes the stale bounds of what it scores, and stages what Choose
  // needs, as arrays of at least `least_rows`. A pass that is recorded names its rows, of which each completes one run
  // at most, so that the arrays' sizes are those of any other.
  void Begin(const ForwardBatch& batch, int64_t least_rows, KvCache* kv);
  // Fills the bounds that were complete before the pass, in every layer.
  void FillEarlier(int64_t num_layers, const KvCache& kv);
  // The bounds that the last pass took as stale, for whoever waits for it.
  std::vector<kernels::KeyRun> TakenRuns() const;
  // The pass that took them failed: they are stale still.
  void Abandon(std::span<const kernels::KeyRun> runs, KvCache* kv);

  struct Layer {
    int64_t layer = 0;
    const void* q = nullptr;  // [rows of the batch][num_heads][head_dim], rotated
    int64_t num_heads = 0;
    kernels::KvEntry* entries = nullptr;  // the batch's
    kernels::KvList* lists = nullptr;     // [decode rows][num_kv_heads]
  };
  // Whether rows of the pass choose: kernels then write lists.
  bool chooses() const { return !rows_.empty(); }
  // Enqueues the layer's choice, after its keys are appended. Nothing to do in a batch without selector rows.
  void Choose(const Layer& layer, const KvCache& kv);

 private:
  // Costs what the contexts grew by since the last pass in which they chose.
  void TakeStaleRuns(const ForwardBatch& batch, KvCache* kv);

  Backend* const backend_;
  std::vector<kernels::KeyRun> earlier_runs_;    // complete before the pass
  std::vector<kernels::KeyRun> completed_runs_;  // by the pass
  std::vector<kernels::SelectorRow> rows_;
  absl::flat_hash_map<uint64_t, int64_t> filled_tokens_;  // of the last pass's contexts, by the tables of their pages
  const kernels::KeyRun* staged_runs_ = nullptr;
  const kernels::SelectorRow* staged_rows_ = nullptr;
};

}  // namespace farspan
