// SPDX-License-Identifier: Apache-2.0
// A model without weights, for load tests and proofs: what it caches of a token is a hash of all that the token read in
// the layer below, and the next token is a hash of what the last row read through its entry lists. A wrong page, a
// stale one, a leaked batch mate or a wrong bound, in any layer and at any earlier step, changes the output.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "engine/base/clock.h"
#include "engine/model/hash_model_options.h"
#include "engine/model/model.h"
#include "engine/model/model_registry.h"

namespace farspan {

// Engine thread only. Needs a KV cache of its own shape in host memory. Answers are printable ASCII in the vocabulary
// of ByteVocabulary(). Forward waits until its step time has passed.
class HashModel final : public Model {
 public:
  static constexpr int64_t kVocabSize = 259;
  static constexpr int64_t kDefaultLayers = 2;

  static ModelShape Shape(int64_t page_tokens, int64_t max_context_tokens, int64_t num_layers = kDefaultLayers,
                          KvDtype kv_dtype = KvDtype::kBf16);

  HashModel(const ModelShape& shape, int64_t max_batch_rows, const HashModelOptions& options = {});

  const ModelShape& shape() const override { return shape_; }
  const ModelInfo& info() const override { return info_; }
  int64_t max_batch_rows() const override { return max_batch_rows_; }
  absl::Status Forward(const ForwardBatch& batch, KvCache& kv) override;
  absl::StatusOr<std::span<float>> Logits(int64_t first, int64_t count) override;

  // Whether the query at one position reads the key at an earlier one or its own.
  using Sees = std::function<bool(int64_t query, int64_t key)>;
  // The token that follows `tokens` where every query reads what `sees` says. Cost: quadratic in the tokens.
  static TokenId NextToken(const std::vector<TokenId>& tokens, const Sees& sees, int64_t num_layers = kDefaultLayers);
  // The same where every query reads all that came before. Cost: linear.
  static TokenId NextToken(const std::vector<TokenId>& tokens, int64_t num_layers = kDefaultLayers);

  // The arithmetic, for oracles that keep state between tokens.
  static uint64_t EmbeddedState(int64_t position, TokenId token);
  // What a query adds up for one key that it reads.
  static uint64_t KeyHash(int64_t position, uint64_t state);
  // The query's state above a layer, from its state below and the sum over what it read.
  static uint64_t NextState(uint64_t state, uint64_t sum_of_key_hashes);
  // How a query ranks a block of its context, from the sum over the block's keys; selectors pick the highest.
  static uint64_t BlockRank(uint64_t state, uint64_t sum_of_key_hashes);
  static TokenId TokenOf(uint64_t top_state);
  // [kVocabSize]; TokenOf has the highest, tokens that are not printable cannot be drawn.
  static void FillLogits(uint64_t top_state, std::span<float> logits);

  // From this call of Forward on, counted from zero, it fails as a device would.
  void FailForwardFrom(int64_t call) { fail_from_call_ = call; }
  // This many calls of Forward from now on find no memory, one after the other; they write nothing.
  void ExhaustMemoryFor(int64_t calls) { calls_without_memory_ = calls; }
  // Rows at this position get a NaN logit.
  void PoisonLogitsAt(int64_t position) { nan_position_ = position; }
  // Reads of a cached token that is not the one the entry names, over all calls.
  int64_t num_bad_reads() const { return num_bad_reads_; }

 private:
  // The keys of one entry list, ready for any query: ascending positions with running sums.
  struct ReadKeys {
    std::vector<int64_t> positions;
    std::vector<uint64_t> sums;           // [i]: of the first i keys
    std::vector<uint64_t> sums_ignoring;  // the same over keys that ignore the left window
  };

  void Append(const ForwardBatch& batch, const kernels::KvLayerView& layer) const;
  void ReadList(const ForwardBatch& batch, const kernels::KvList& list, const kernels::KvLayerView& layer);
  uint64_t SumSeen(int64_t position, int64_t left_window) const;
  uint64_t SumChosen(const ForwardBatch& batch, const kernels::SelectorRow& row, const kernels::KvLayerView& layer);
  void RunLayer(const ForwardBatch& batch, int64_t layer_index, const kernels::KvLayerView& layer);
  SteadyDuration StepTime(const ForwardBatch& batch) const;

  const ModelShape shape_;
  const HashModelOptions options_;
  const int64_t max_batch_rows_;
  ModelInfo info_;
  std::vector<uint64_t> states_;  // of the batch's rows, below the layer that runs next
  ReadKeys keys_;                 // of the list that is being read
  std::vector<int64_t> logit_rows_;
  std::vector<int64_t> positions_;
  std::vector<float> logits_;
  int64_t num_calls_ = 0;
  int64_t fail_from_call_ = -1;
  int64_t calls_without_memory_ = 0;
  int64_t nan_position_ = -1;
  int64_t num_bad_reads_ = 0;
};

// INVALID_ARGUMENT when `options.max_context_tokens` is above the hash model's context.
absl::StatusOr<std::unique_ptr<Model>> CreateHashModel(const HashModelOptions& hash, const ModelOptions& options);

}  // namespace farspan
