// SPDX-License-Identifier: Apache-2.0
// The decoder of the Llama family: RMS norms, grouped-query attention with rotary positions on adjacent pairs (GGUF
// stores q and k permuted for it), a gated SiLU feed-forward, optionally tied embeddings.
#pragma once

#include <cstdint>
#include <deque>
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
  TokenId* drawn_ids;  // [rows], what a step drew by its logit row; null where the backend does not draw
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
  // Where the backend draws, draws follow the pass without the host between them, and what was drawn stays there for
  // the step behind.
  int64_t max_steps_in_flight() const override { return backend_->draws() ? backend_->max_steps_in_flight() : 1; }
  void BeginStep(const ForwardBatch& batch, std::span<const DrawRequest> draws, KvCache& kv) override;
  absl::StatusOr<std::vector<DrawResult>> EndStep() override;

 private:
  // A batch's arrays as ops read them.
  struct StagedBatch;
  // The draws of one pass over the output matrix: of the logit rows from the first to the last that is read.
  struct Slice;
  // A step on the device, with what is needed once it has ended.
  struct Step {
    KvCache* kv = nullptr;
    std::vector<kernels::KeyRun> taken_runs;
    StepTicket ticket{};                // of its last slice
    std::vector<DrawRequest> requests;  // of that slice
    const kernels::DrawnRow* drawn = nullptr;
    int64_t first_row = 0;  // that `drawn` begins with
    bool ended = false;
    absl::Status status;
    std::vector<DrawResult> results;  // of the slices that have ended
  };

  // The batch's arrays. Those of a pass that is recorded, whose `recorded_rows` are not 0, are padded to them with rows
  // that read, write and want nothing.
  StagedBatch StageBatch(const ForwardBatch& batch, int64_t recorded_rows, KvCache* kv);
  // Enqueues a pass over a batch whose arrays, and whatever else is read with them, are staged.
  void EnqueuePass(const ForwardBatch& batch, const StagedBatch& staged, const KvCache& kv);
  int64_t RecordedRows(const ForwardBatch& batch) const;
  void RunPass(const StagedBatch& batch, const KvCache& kv);
  void Project(int64_t layer, const StagedBatch& batch, const KvCache& kv);
  void Attend(int64_t layer, const StagedBatch& batch, const KvCache& kv);
  void FeedForward(const LlamaLayer& layer, int64_t num_rows);
  void ComputeLogits(int64_t count, const int64_t* rows);
  const int64_t* StageLogitRows(int64_t first, int64_t count);
  // Takes the next slice off `*draws` and stages what it needs.
  Slice NextSlice(std::span<const DrawRequest>* draws);
  void EnqueueDraws(const Slice& slice, Step* step);
  // Waits for the step's last slice.
  void End(Step* step);

  const LlamaConfig config_;
  const ModelShape shape_;
  const ModelInfo info_;
  const LlamaWeights weights_;
  const LlamaActivations activations_;
  const int64_t max_batch_rows_;
  Backend* const backend_;
  BlockSelection selection_;
  ForwardBatch padded_;              // of the last recorded pass, but for its entries
  std::deque<Step> steps_;           // begun and not ended by EndStep, oldest first
  std::vector<int64_t> logit_rows_;  // of the last pass, rows of activations_.hidden
  std::vector<float> logits_;        // what the last Logits returned
};

// Fails as LoadModel does. Of `source` nothing is kept but its buffers.
absl::StatusOr<std::unique_ptr<Model>> CreateLlama(const LlamaSpec& spec, WeightSource& source, Backend* backend,
                                                   const ModelOptions& options);
absl::StatusOr<std::unique_ptr<Model>> CreateLlama(const GgufFile& file, Backend* backend, const ModelOptions& options);

}  // namespace farspan
