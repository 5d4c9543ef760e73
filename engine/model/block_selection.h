// SPDX-License-Identifier: Apache-2.0
// What one pass needs so that decode rows can choose blocks: a copy of the batch's lists that the device may write, and
// the key bounds that are stale.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "engine/backend/backend.h"
#include "engine/kv/kv_cache.h"
#include "engine/model/forward_batch.h"

namespace farspan {

// Engine thread only. Its buffers grow to what the largest batch so far needed; the backend outlives it.
class BlockSelection {
 public:
  explicit BlockSelection(Backend* backend) : backend_(backend) {}

  // Before the ops of a pass: tells `kv` what the batch writes and takes the stale bounds of what it scores. Fails
  // only where the device has no memory for the lists.
  absl::Status Begin(const ForwardBatch& batch, KvCache* kv);
  // The pass failed: the bounds that it took are stale still.
  void Abandon(KvCache* kv);

  // Of the last batch with selector rows: its entries and those chosen in the last layer; the lists of its decode rows.
  const kernels::KvEntry* entries() const { return static_cast<const kernels::KvEntry*>(entries_->data()); }
  const kernels::KvList* lists() const { return static_cast<const kernels::KvList*>(lists_->data()); }

  struct Layer {
    int64_t layer = 0;
    const void* q = nullptr;  // [rows of the batch][num_heads][head_dim], rotated
    int64_t num_heads = 0;
  };
  // Enqueues the layer's choice, after its keys are appended. Nothing to do in a batch without selector rows.
  void Choose(const Layer& layer, const KvCache& kv);

 private:
  absl::Status Grow(int64_t size_bytes, std::unique_ptr<Buffer>* buffer);
  void TakeStaleRuns(const ForwardBatch& batch, KvCache* kv);

  Backend* const backend_;
  std::unique_ptr<Buffer> entries_;  // the batch's, then the slots
  std::unique_ptr<Buffer> lists_;    // [decode rows][num_kv_heads]
  int64_t first_slot_ = 0;
  std::vector<kernels::KeyRun> stale_runs_;
  const kernels::KeyRun* staged_runs_ = nullptr;
  const kernels::SelectorRow* staged_rows_ = nullptr;
  int64_t num_rows_ = 0;
};

}  // namespace farspan
