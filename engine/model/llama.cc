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

void Llama::Project(int64_t layer, const StagedBatch& batch, const KvCache& kv) {
  const LlamaLayer& weights = weights_.layers[static_cast<size_t>(layer)];
  const LlamaActivations& a = activations_;
  backend_->AttentionInput({.hidden = a.hidden,
                            .norm_weight = weights.attention_norm,
                            .epsilon = config_.rms_epsilon,
                            .query = weights.query,
                            .key = weights.key,
                            .value = weights.value,
                            .cos_sin = a.cos_sin,
                            .slots = batch.kv_slots,
                            .cache = kv.layer(layer),
                            .q = a.query,
                            .normed = a.normed,
                            .projected = a.projected,
                            .num_rows = batch.num_rows,
                            .num_heads = config_.num_heads,
                            .rope_dim = config_.rope_dim});
}

void Llama::Attend(int64_t layer, const StagedBatch& batch, const KvCache& kv) {
  const LlamaLayer& weights = weights_.layers[static_cast<size_t>(layer)];
  const LlamaActivations& a = activations_;
  Project(layer, batch, kv);
  selection_.Choose({.layer = layer, .q = a.query, .num_heads = config_.num_heads}, kv);
  const kernels::AttentionCommon common = {
      .q = a.query,
      .out = a.attention,
      .lse = nullptr,
      .cache = kv.layer(layer),
      .entries = batch.entries,
      .rope_cos_sin = a.cos_sin,
      .inverse_frequencies = weights_.frequencies,
      .rope_dim = config_.rope_dim,
      .num_heads = config_.num_heads,
      .scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config_.head_dim))),
      .activation = backend_->activation()};
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
  backend_->AttentionOutput(
      {.x = a.attention, .weight = weights.attention_output, .hidden = a.hidden, .num_rows = batch.num_rows});
}

void Llama::FeedForward(const LlamaLayer& layer, int64_t num_rows) {
  backend_->FeedForward({.hidden = activations_.hidden,
                         .norm_weight = layer.feed_forward_norm,
                         .epsilon = config_.rms_epsilon,
                         .gate = layer.gate,
                         .up = layer.up,
                         .down = layer.down,
                         .normed = activations_.normed,
                         .inner = activations_.inner,
                         .num_rows = num_rows});
}

absl::Status Llama::Forward(const ForwardBatch& batch, KvCache& kv) {
  const int64_t rows = batch.num_rows();
  FARSPAN_CHECK(rows >= 1 && rows <= max_batch_rows_, "rows=", rows, " max=", max_batch_rows_);
  logit_rows_.clear();
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
  const absl::Status status = backend_->Wait(backend_->Submit());
  if (!status.ok()) {
    selection_.Abandon(&kv);
    return status;
  }
  logit_rows_ = batch.logit_rows;
  return absl::OkStatus();
}

absl::StatusOr<std::span<float>> Llama::Logits(int64_t first, int64_t count) {
  const auto num_rows = static_cast<int64_t>(logit_rows_.size());
  FARSPAN_CHECK(first >= 0 && count >= 0 && count <= kMaxLogitRows && first + count <= num_rows, "first=", first,
                " count=", count, " rows=", num_rows);
  if (count == 0) return std::span<float>();
  const auto rows =
      std::span<const int64_t>(logit_rows_).subspan(static_cast<size_t>(first), static_cast<size_t>(count));
  backend_->Logits({.hidden = activations_.hidden,
                    .rows = backend_->StageArray(rows),
                    .norm_weight = weights_.output_norm,
                    .epsilon = config_.rms_epsilon,
                    .weight = weights_.output,
                    .normed = activations_.normed,
                    .logits = activations_.logits,
                    .num_rows = count});
  FARSPAN_RETURN_IF_ERROR(backend_->Wait(backend_->Submit()));
  logits_.resize(static_cast<size_t>(count * shape_.vocab_size));
  FARSPAN_RETURN_IF_ERROR(backend_->Download(std::as_writable_bytes(std::span(logits_)), activations_.logits));
  return std::span<float>(logits_);
}

}  // namespace farspan
