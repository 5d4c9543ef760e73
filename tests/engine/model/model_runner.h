// SPDX-License-Identifier: Apache-2.0
// Builds forward passes by hand: sequences with pages of their own, dense lists, any mix of prefill and decode.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/base/ids.h"
#include "engine/kv/kv_cache.h"
#include "engine/model/forward_batch.h"
#include "engine/model/model.h"

namespace farspan {

// One sequence's next tokens in a pass.
struct Chunk {
  int sequence = 0;
  std::vector<TokenId> tokens;
  bool decode = false;  // one row a token through the decode kernel, else prefill tiles
};

// One thread. Sequence i owns `pages_per_sequence` pages of the cache, in an order that is not ascending.
class ModelRunner {
 public:
  ModelRunner(Model* model, Backend* backend, int num_sequences, int64_t pages_per_sequence);

  // Runs the chunks as one pass; logits of every row, [row][vocab], rows in the order of the chunks.
  std::vector<std::vector<float>> Run(std::span<const Chunk> chunks);

 private:
  void AddDecode(const Chunk& chunk, ForwardBatch& batch);
  void AddPrefill(const Chunk& chunk, ForwardBatch& batch);
  void AddRows(const Chunk& chunk, ForwardBatch& batch);
  // Appends entries for tokens [0, end) of a sequence.
  kernels::KvList AddList(int sequence, int64_t end, ForwardBatch& batch) const;
  int32_t PageOf(int sequence, int64_t index) const;

  Model* const model_;
  const int num_sequences_;
  const int64_t pages_per_sequence_;
  std::unique_ptr<KvCache> cache_;
  std::vector<int64_t> lengths_;  // [sequence] tokens in the cache
};

}  // namespace farspan
