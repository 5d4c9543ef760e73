// SPDX-License-Identifier: Apache-2.0
#include "engine/model/llama.h"

#include <cmath>
#include <utility>

#include "engine/base/check.h"
#include "engine/base/status_macros.h"

namespace farspan {

struct Llama::StagedBatch {
  int64_t num_rows = 0;
  const kernels::KvSlot* kv_slots = nullptr;
  const kernels::KvEntry* entries = nullptr;
  const kernels::DecodeRow* decode_rows = nullptr;
  const kernels::KvList* decode_lists = nullptr;
  int64_t num_decode_rows = 0;
  const kernels::PrefillTile* prefill_tiles = nullptr;
  const kernels::KvList* prefill_lists = nullptr;
  int64_t num_prefill_tiles = 0;
};

Llama::Llama(const LlamaConfig& config, const ModelShape& shape, ModelInfo info, LlamaWeights weights,
             LlamaActivations activations, int64_t max_batch_rows, Backend* backend)
    : config_(config),
      shape_(shape),
      info_(std::move(info)),
      weights_(std::move(weights)),
      activations_(std::move(activations)),
      max_batch_rows_(max_batch_rows),
      backend_(backend),
      selection_(backend) {}

Llama::StagedBatch Llama::StageBatch(const ForwardBatch& batch) {
  const auto stage = [this]<typename T>(const std::vector<T>& host) {
    return backend_->StageArray(std::span<const T>(host));
  };
  const bool selects = !batch.selector_rows.empty();
  return {.num_rows = batch.num_rows(),
          .kv_slots = stage(batch.kv_slots),
          .entries = selects ? selection_.entries() : stage(batch.entries),
          .decode_rows = stage(batch.decode_rows),
          .decode_lists = selects ? selection_.lists() : stage(batch.decode_lists),
          .num_decode_rows = static_cast<int64_t>(batch.decode_rows.size()),
          .prefill_tiles = stage(batch.prefill_tiles),
          .prefill_lists = stage(batch.prefill_lists),
          .num_prefill_tiles = static_cast<int64_t>(batch.prefill_tiles.size())};
}

void Llama::Norm(const float* x, const float* weight, int64_t num_rows, float* out) {
  backend_->RmsNorm({.x = x,
                     .weight = weight,
                     .out = out,
                     .num_rows = num_rows,
                     .width = config_.width,
                     .epsilon = config_.rms_epsilon});
}

// Queries, keys and values of the rows, rotated.
void Llama::Project(const LlamaLayer& layer, int64_t num_rows) {
  const LlamaActivations& a = activations_;
  Norm(a.hidden, layer.attention_norm, num_rows, a.normed);
  backend_->Linear({.x = a.normed, .weight = layer.query, .y = a.query, .num_rows = num_rows});
  backend_->Linear({.x = a.normed, .weight = layer.key, .y = a.key, .num_rows = num_rows});
  backend_->Linear({.x = a.normed, .weight = layer.value, .y = a.value, .num_rows = num_rows});
  for (const auto& [x, num_heads] : {std::pair(a.query, config_.num_heads), std::pair(a.key, config_.num_kv_heads)}) {
    backend_->Rope({.x = x,
                    .cos_sin = a.cos_sin,
                    .num_rows = num_rows,
                    .num_heads = num_heads,
                    .head_dim = config_.head_dim,
                    .rope_dim = config_.rope_dim});
  }
}

void Llama::Attend(int64_t layer, const StagedBatch& batch, const KvCache& kv) {
  const LlamaLayer& weights = weights_.layers[static_cast<size_t>(layer)];
  const LlamaActivations& a = activations_;
  const kernels::KvLayerView cache = kv.layer(layer);
  Project(weights, batch.num_rows);
  backend_->KvAppend({.k = a.key, .v = a.value, .slots = batch.kv_slots, .cache = cache, .num_rows = batch.num_rows});
  selection_.Choose({.layer = layer, .q = a.query, .num_heads = config_.num_heads}, kv);
  const kernels::AttentionCommon common = {
      .q = a.query,
      .out = a.attention,
      .lse = nullptr,
      .cache = cache,
      .entries = batch.entries,
      .rope_cos_sin = a.cos_sin,
      .inverse_frequencies = weights_.frequencies,
      .rope_dim = config_.rope_dim,
      .num_heads = config_.num_heads,
      .scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config_.head_dim)))};
  if (batch.num_decode_rows > 0) {
    backend_->DecodeAttention(
        {.common = common, .rows = batch.decode_rows, .lists = batch.decode_lists, .num_rows = batch.num_decode_rows});
  }
  if (batch.num_prefill_tiles > 0) {
    backend_->PrefillAttention({.common = common,
                                .tiles = batch.prefill_tiles,
                                .lists = batch.prefill_lists,
                                .num_tiles = batch.num_prefill_tiles});
  }
  backend_->Linear({.x = a.attention,
                    .weight = weights.attention_output,
                    .y = a.hidden,
                    .num_rows = batch.num_rows,
                    .accumulate = true});
}

void Llama::FeedForward(const LlamaLayer& layer, int64_t num_rows) {
  const LlamaActivations& a = activations_;
  Norm(a.hidden, layer.feed_forward_norm, num_rows, a.normed);
  backend_->Linear({.x = a.normed, .weight = layer.gate, .y = a.gate, .num_rows = num_rows});
  backend_->Linear({.x = a.normed, .weight = layer.up, .y = a.up, .num_rows = num_rows});
  backend_->SiluMul({.gate = a.gate, .up = a.up, .num_rows = num_rows, .width = config_.feed_forward_width});
  backend_->Linear({.x = a.gate, .weight = layer.down, .y = a.hidden, .num_rows = num_rows, .accumulate = true});
}

// One norm a run of consecutive rows: this also gathers them, so that Logits multiplies wanted rows only.
void Llama::NormLogitRows(std::span<const int64_t> rows) {
  for (size_t begin = 0; begin < rows.size();) {
    size_t end = begin + 1;
    while (end < rows.size() && rows[end] == rows[end - 1] + 1) ++end;
    Norm(activations_.hidden + rows[begin] * config_.width, weights_.output_norm, static_cast<int64_t>(end - begin),
         activations_.normed + static_cast<int64_t>(begin) * config_.width);
    begin = end;
  }
}

absl::Status Llama::Forward(const ForwardBatch& batch, KvCache& kv) {
  const int64_t rows = batch.num_rows();
  FARSPAN_CHECK(rows >= 1 && rows <= max_batch_rows_, "rows=", rows, " max=", max_batch_rows_);
  num_logit_rows_ = 0;
  FARSPAN_RETURN_IF_ERROR(selection_.Begin(batch, &kv));
  const StagedBatch staged = StageBatch(batch);
  backend_->Embed({.token_ids = backend_->StageArray(std::span<const TokenId>(batch.token_ids)),
                   .table = weights_.embedding,
                   .out = activations_.hidden,
                   .num_rows = rows});
  backend_->RopeTable({.positions = backend_->StageArray(std::span<const int64_t>(batch.positions)),
                       .inverse_frequencies = weights_.frequencies,
                       .cos_sin = activations_.cos_sin,
                       .num_rows = rows,
                       .rope_dim = config_.rope_dim});
  for (int64_t i = 0; i < config_.num_layers; ++i) {
    Attend(i, staged, kv);
    FeedForward(weights_.layers[static_cast<size_t>(i)], rows);
  }
  NormLogitRows(batch.logit_rows);
  const absl::Status status = backend_->Wait(backend_->Submit());
  if (!status.ok()) {
    selection_.Abandon(&kv);
    return status;
  }
  num_logit_rows_ = batch.num_logit_rows();
  return absl::OkStatus();
}

absl::StatusOr<std::span<float>> Llama::Logits(int64_t first, int64_t count) {
  FARSPAN_CHECK(first >= 0 && count >= 0 && count <= kMaxLogitRows && first + count <= num_logit_rows_, "first=", first,
                " count=", count, " rows=", num_logit_rows_);
  if (count == 0) return std::span<float>();
  backend_->Linear({.x = activations_.normed + first * config_.width,
                    .weight = weights_.output,
                    .y = activations_.logits,
                    .num_rows = count});
  FARSPAN_RETURN_IF_ERROR(backend_->Wait(backend_->Submit()));
  logits_.resize(static_cast<size_t>(count * shape_.vocab_size));
  FARSPAN_RETURN_IF_ERROR(backend_->Download(std::as_writable_bytes(std::span(logits_)), activations_.logits));
  return std::span<float>(logits_);
}

}  // namespace farspan
