// SPDX-License-Identifier: Apache-2.0
// A model whose cache holds, for each token, what was written there, and whose next token is a hash of everything that
// a row reads through its entry list. A wrong page, a stale one, a leaked batch mate or a wrong bound changes the
// output.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/model/model.h"

namespace farspan {

// Engine thread only. Needs a KV cache of HashModel::Shape() in host memory.
class HashModel final : public Model {
 public:
  static constexpr int64_t kVocabSize = 251;

  static ModelShape Shape(int64_t page_tokens, int64_t max_context_tokens);

  HashModel(const ModelShape& shape, int64_t max_batch_rows) : shape_(shape), max_batch_rows_(max_batch_rows) {
    info_.architecture = "hash";
  }

  const ModelShape& shape() const override { return shape_; }
  const ModelInfo& info() const override { return info_; }
  int64_t max_batch_rows() const override { return max_batch_rows_; }
  absl::Status Forward(const ForwardBatch& batch, KvCache& kv) override;
  absl::StatusOr<std::span<float>> Logits(int64_t first, int64_t count) override;

  // The token that follows `tokens` when all of them are read.
  static TokenId NextToken(const std::vector<TokenId>& tokens);
  // The same when the last query reads only positions for which `visible` is true.
  static TokenId NextToken(const std::vector<TokenId>& tokens, const std::vector<bool>& visible);

  // From this call of Forward on, it fails as a device would.
  void FailForwardFrom(int64_t call) { fail_from_call_ = call; }
  // Rows at this position get a NaN logit.
  void PoisonLogitsAt(int64_t position) { nan_position_ = position; }
  // Reads of an entry whose cached position or content was never written, over all calls.
  int64_t num_bad_reads() const { return num_bad_reads_; }

 private:
  uint64_t HashOfRow(const ForwardBatch& batch, const kernels::KvList& list, int64_t position, int64_t left_window,
                     const KvCache& kv);

  const ModelShape shape_;
  ModelInfo info_;
  const int64_t max_batch_rows_;
  std::vector<uint64_t> hashes_;  // of the last batch's rows
  std::vector<int64_t> logit_rows_;
  std::vector<int64_t> positions_;
  std::vector<float> logits_;
  int64_t num_calls_ = 0;
  int64_t fail_from_call_ = -1;
  int64_t nan_position_ = -1;
  int64_t num_bad_reads_ = 0;
};

}  // namespace farspan
