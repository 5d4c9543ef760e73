// SPDX-License-Identifier: Apache-2.0
// The decoder of the Llama family: RMS norms, grouped-query attention with rotary positions on adjacent pairs (GGUF
// stores q and k permuted for it), a gated SiLU feed-forward, optionally tied embeddings.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/backend/backend.h"
#include "engine/kernels/args.h"
#include "engine/model/block_selection.h"
#include "engine/model/gguf.h"
#include "engine/model/llama_config.h"
#include "engine/model/model.h"
#include "engine/model/model_registry.h"
#include "engine/model/weight_source.h"

namespace farspan {

struct LlamaLayer {
  const float* attention_norm;           // [width]
  kernels::WeightView query;             // [num_heads * head_dim][width]
  kernels::WeightView key;               // [num_kv_heads * head_dim][width]
  kernels::WeightView value;             // as key
  kernels::WeightView attention_output;  // [width][num_heads * head_dim]
  const float* feed_forward_norm;        // [width]
  kernels::WeightView gate;              // [feed_forward_width][width]
  kernels::WeightView up;                // as gate
  kernels::WeightView down;              // [width][feed_forward_width]
};

// Views into `buffers`, in device memory.
struct LlamaWeights {
  kernels::WeightView embedding;  // [vocab][width]
  std::vector<LlamaLayer> layers;
  const float* output_norm;    // [width]
  kernels::WeightView output;  // [vocab][width]; the embedding where they are tied
  const double* frequencies;   // [rope_dim / 2]
  std::vector<std::unique_ptr<Buffer>> buffers;
};

// Device buffers of one pass, taken once for max_batch_rows; named as in a layer's arithmetic. Those without a type
// hold the backend's activations.
struct LlamaActivations {
  float* hidden;    // [rows][width], the residual stream
  void* normed;     // [rows][width]
  void* query;      // [rows][num_heads][head_dim]
  void* projected;  // [rows][(num_heads + 2 num_kv_heads) * head_dim]
  void* attention;  // as query
  void* inner;      // [rows][3 * feed_forward_width]
  float* cos_sin;   // [rows][rope_dim / 2][2]
  float* logits;    // [logit_rows][vocab]
  int64_t logit_rows;
  std::vector<std::unique_ptr<Buffer>> buffers;
};

class Llama final : public Model {
 public:
  Llama(const LlamaConfig& config, const ModelShape& shape, ModelInfo info, LlamaWeights weights,
        LlamaActivations activations, int64_t max_batch_rows, Backend* backend);

  const ModelShape& shape() const override { return shape_; }
  const ModelInfo& info() const override { return info_; }
  int64_t max_batch_rows() const override { return max_batch_rows_; }
  absl::Status Forward(const ForwardBatch& batch, KvCache& kv) override;
  absl::StatusOr<std::span<float>> Logits(int64_t first, int64_t count) override;
  // On the backend where it draws.
  absl::StatusOr<std::vector<DrawResult>> Draw(std::span<const DrawRequest> requests) override;

 private:
  // A batch's arrays as ops read them.
  struct StagedBatch;

  // The batch's arrays. Those of a pass that is recorded, whose `recorded_rows` are not 0, are padded to them with rows
  // that read, write and want nothing.
  StagedBatch StageBatch(const ForwardBatch& batch, int64_t recorded_rows, KvCache* kv);
  void RunPass(const StagedBatch& batch, const KvCache& kv);
  absl::Status Complete();
  void Project(int64_t layer, const StagedBatch& batch, const KvCache& kv);
  void Attend(int64_t layer, const StagedBatch& batch, const KvCache& kv);
  void FeedForward(const LlamaLayer& layer, int64_t num_rows);
  void ComputeLogits(int64_t first, int64_t count);
  absl::Status DrawSlice(std::span<const DrawRequest> requests, std::vector<DrawResult>* results);

  const LlamaConfig config_;
  const ModelShape shape_;
  const ModelInfo info_;
  const LlamaWeights weights_;
  const LlamaActivations activations_;
  const int64_t max_batch_rows_;
  Backend* const backend_;
  BlockSelection selection_;
  ForwardBatch padded_;              // of the last recorded pass, but for its entries
  KvCache* pending_ = nullptr;       // that of a Forward that has not been waited for
  std::vector<int64_t> logit_rows_;  // of the last Forward, rows of activations_.hidden
  std::vector<float> logits_;        // what the last Logits returned
};

// Fails as LoadModel does. Of `source` nothing is kept but its buffers.
absl::StatusOr<std::unique_ptr<Model>> CreateLlama(const LlamaSpec& spec, WeightSource& source, Backend* backend,
                                                   const ModelOptions& options);
absl::StatusOr<std::unique_ptr<Model>> CreateLlama(const GgufFile& file, Backend* backend, const ModelOptions& options);

}  // namespace farspan
