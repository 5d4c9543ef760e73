// SPDX-License-Identifier: Apache-2.0
#include "engine/model/llama.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/model/device_draws.h"

namespace farspan {

struct Llama::StagedBatch {
  int64_t num_rows = 0;
  const TokenId* token_ids = nullptr;
  const int64_t* positions = nullptr;
  const kernels::KvSlot* kv_slots = nullptr;
  const kernels::DecodeRow* decode_rows = nullptr;
  kernels::KvList* decode_lists = nullptr;
  int64_t num_decode_rows = 0;
  const kernels::PrefillTile* prefill_tiles = nullptr;
  const kernels::KvList* prefill_lists = nullptr;
  int64_t num_prefill_tiles = 0;
  kernels::KvEntry* entries = nullptr;
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

// The entries come last: only their number changes between passes that share a record.
Llama::StagedBatch Llama::StageBatch(const ForwardBatch& batch, int64_t recorded_rows, KvCache* kv) {
  const bool recorded = recorded_rows > 0;
  const int64_t num_rows = recorded ? recorded_rows : batch.num_rows();
  const auto stage = [this]<typename T>(const std::vector<T>& host) {
    return backend_->StageArray(std::span<const T>(host));
  };
  const auto stage_mutable = [this]<typename T>(const std::vector<T>& host) {
    return static_cast<T*>(backend_->StageMutable(std::as_bytes(std::span(host))));
  };
  const auto num_decode_rows = static_cast<int64_t>(batch.decode_rows.size());
  const bool padded = num_rows > batch.num_rows();
  if (padded) {
    const auto size = static_cast<size_t>(num_rows);
    padded_.token_ids = batch.token_ids;
    padded_.token_ids.resize(size);
    padded_.positions = batch.positions;
    padded_.positions.resize(size);
    padded_.kv_slots = batch.kv_slots;
    padded_.kv_slots.resize(size, {.page = -1, .token = 0});
    padded_.decode_rows = batch.decode_rows;
    for (int64_t row = num_decode_rows; row < num_rows; ++row) {
      padded_.decode_rows.push_back({.row = row, .position = 0, .left_window = kernels::kNoLeftWindow});
    }
    padded_.decode_lists = batch.decode_lists;
    padded_.decode_lists.resize(size * static_cast<size_t>(config_.num_kv_heads));
  }
  const ForwardBatch& rows = padded ? padded_ : batch;
  StagedBatch staged = {.num_rows = num_rows,
                        .token_ids = stage(rows.token_ids),
                        .positions = stage(rows.positions),
                        .kv_slots = stage(rows.kv_slots),
                        .decode_rows = stage(rows.decode_rows),
                        .decode_lists = stage_mutable(rows.decode_lists),
                        .num_decode_rows = static_cast<int64_t>(rows.decode_rows.size()),
                        .prefill_tiles = stage(batch.prefill_tiles),
                        .prefill_lists = stage(batch.prefill_lists),
                        .num_prefill_tiles = static_cast<int64_t>(batch.prefill_tiles.size())};
  selection_.Begin(batch, recorded ? num_rows : 0, kv);
  staged.entries = stage_mutable(batch.entries);
  return staged;
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
  selection_.Choose({.layer = layer,
                     .q = a.query,
                     .num_heads = config_.num_heads,
                     .entries = batch.entries,
                     .lists = batch.decode_lists},
                    kv);
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
    backend_->DecodeAttention({.common = common,
                               .rows = batch.decode_rows,
                               .lists = batch.decode_lists,
                               .num_rows = batch.num_decode_rows,
                               .lists_are_settled = !selection_.chooses()});
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

void Llama::RunPass(const StagedBatch& batch, const KvCache& kv) {
  backend_->Embed({.token_ids = batch.token_ids,
                   .table = weights_.embedding,
                   .out = activations_.hidden,
                   .num_rows = batch.num_rows,
                   .drawn_token_ids = activations_.drawn_ids});
  backend_->RopeTable({.positions = batch.positions,
                       .inverse_frequencies = weights_.frequencies,
                       .cos_sin = activations_.cos_sin,
                       .num_rows = batch.num_rows,
                       .rope_dim = config_.rope_dim});
  for (int64_t i = 0; i < config_.num_layers; ++i) {
    Attend(i, batch, kv);
    FeedForward(weights_.layers[static_cast<size_t>(i)], batch.num_rows);
  }
}

// The rows that the batch's pass is recorded for, 0 where it is not.
int64_t Llama::RecordedRows(const ForwardBatch& batch) const {
  const int64_t rows = batch.num_rows();
  FARSPAN_CHECK(rows >= 1 && rows <= max_batch_rows_, "rows=", rows, " max=", max_batch_rows_);
  if (!batch.prefill_tiles.empty()) return 0;
  const int64_t recorded_rows = std::min(backend_->RecordedRows(rows), max_batch_rows_);
  return recorded_rows >= rows ? recorded_rows : 0;
}

void Llama::EnqueuePass(const ForwardBatch& batch, const StagedBatch& staged, const KvCache& kv) {
  selection_.FillEarlier(config_.num_layers, kv);
  const int64_t recorded_rows = RecordedRows(batch);
  if (recorded_rows > 0) {
    const uint64_t key = static_cast<uint64_t>(recorded_rows) << 1 | (batch.selector_rows.empty() ? 0 : 1);
    backend_->RunRecorded(key, [&] { RunPass(staged, kv); });
  } else {
    RunPass(staged, kv);
  }
}

absl::Status Llama::Forward(const ForwardBatch& batch, KvCache& kv) {
  FARSPAN_CHECK(steps_.empty(), "a pass beside ", steps_.size(), " steps");
  EnqueuePass(batch, StageBatch(batch, RecordedRows(batch), &kv), kv);
  const absl::Status status = backend_->Wait(backend_->Submit());
  logit_rows_ = batch.logit_rows;
  if (!status.ok()) {
    selection_.Abandon(selection_.TakenRuns(), &kv);
    logit_rows_.clear();
  }
  return status;
}

const int64_t* Llama::StageLogitRows(int64_t first, int64_t count) {
  const auto num_rows = static_cast<int64_t>(logit_rows_.size());
  FARSPAN_CHECK(first >= 0 && count >= 0 && count <= activations_.logit_rows && first + count <= num_rows,
                "first=", first, " count=", count, " rows=", num_rows);
  return backend_->StageArray(
      std::span<const int64_t>(logit_rows_).subspan(static_cast<size_t>(first), static_cast<size_t>(count)));
}

// Enqueues the logits of `count` of the batch's logit rows.
void Llama::ComputeLogits(int64_t count, const int64_t* rows) {
  backend_->Logits({.hidden = activations_.hidden,
                    .rows = rows,
                    .norm_weight = weights_.output_norm,
                    .epsilon = config_.rms_epsilon,
                    .weight = weights_.output,
                    .normed = activations_.normed,
                    .logits = activations_.logits,
                    .num_rows = count});
}

absl::StatusOr<std::span<float>> Llama::Logits(int64_t first, int64_t count) {
  FARSPAN_CHECK(count <= kMaxLogitRows, "count=", count);
  if (count == 0) return std::span<float>();
  ComputeLogits(count, StageLogitRows(first, count));
  FARSPAN_RETURN_IF_ERROR(backend_->Wait(backend_->Submit()));
  logits_.resize(static_cast<size_t>(count * shape_.vocab_size));
  FARSPAN_RETURN_IF_ERROR(backend_->Download(std::as_writable_bytes(std::span(logits_)), activations_.logits));
  return std::span<float>(logits_);
}

struct Llama::Slice {
  std::span<const DrawRequest> requests;
  int64_t first_row = 0;
  int64_t num_rows = 0;  // 0 where no request reads logits
  const int64_t* logit_rows = nullptr;
  const kernels::DrawRow* rows = nullptr;
  const kernels::CountedToken* counts = nullptr;
};

Llama::Slice Llama::NextSlice(std::span<const DrawRequest>* draws) {
  Slice slice;
  if (draws->empty()) return slice;
  const int64_t end_row = draws->front().logit_row + std::min(activations_.logit_rows, kernels::kMaxDrawRows);
  const auto end = std::find_if(draws->begin(), draws->end(),
                                [end_row](const DrawRequest& request) { return request.logit_row >= end_row; });
  slice.requests = draws->first(static_cast<size_t>(end - draws->begin()));
  *draws = draws->subspan(slice.requests.size());
  std::vector<DrawRequest> reading;
  for (const DrawRequest& request : slice.requests) {
    if (request.reads_logits()) reading.push_back(request);
  }
  if (reading.empty()) return slice;
  slice.first_row = reading.front().logit_row;
  slice.num_rows = reading.back().logit_row + 1 - slice.first_row;
  const DeviceDraws device_draws = MakeDeviceDraws(reading, slice.first_row, slice.num_rows);
  slice.logit_rows = StageLogitRows(slice.first_row, slice.num_rows);
  slice.rows = backend_->StageArray(std::span(device_draws.rows));
  slice.counts = backend_->StageArray(std::span(device_draws.counts));
  return slice;
}

void Llama::EnqueueDraws(const Slice& slice, Step* step) {
  step->requests.assign(slice.requests.begin(), slice.requests.end());
  step->first_row = slice.first_row;
  if (slice.num_rows == 0) return;
  ComputeLogits(slice.num_rows, slice.logit_rows);
  step->drawn = backend_->Draw({.logits = activations_.logits,
                                .rows = slice.rows,
                                .counts = slice.counts,
                                .drawn = nullptr,
                                .next_token_ids = activations_.drawn_ids + slice.first_row,
                                .num_rows = slice.num_rows,
                                .vocab_size = shape_.vocab_size});
}

void Llama::BeginStep(const ForwardBatch& batch, std::span<const DrawRequest> draws, KvCache& kv) {
  if (!backend_->draws()) return Model::BeginStep(batch, draws, kv);
  FARSPAN_CHECK(std::ssize(steps_) < max_steps_in_flight(), "steps=", steps_.size());
  Step& step = steps_.emplace_back();
  step.kv = &kv;
  logit_rows_ = batch.logit_rows;
  const StagedBatch staged = StageBatch(batch, RecordedRows(batch), &kv);
  Slice slice = NextSlice(&draws);
  EnqueuePass(batch, staged, kv);
  step.taken_runs = selection_.TakenRuns();
  EnqueueDraws(slice, &step);
  while (!draws.empty()) {
    // A slice more takes the memory of draws that steps are not to lose.
    step.ticket = backend_->Submit();
    for (Step& begun : steps_) End(&begun);
    if (!step.status.ok()) return;
    step.ended = false;
    slice = NextSlice(&draws);
    EnqueueDraws(slice, &step);
  }
  step.ticket = backend_->Submit();
}

void Llama::End(Step* step) {
  if (std::exchange(step->ended, true)) return;
  step->status = backend_->Wait(step->ticket);
  if (!step->status.ok()) return selection_.Abandon(step->taken_runs, step->kv);
  for (const DrawRequest& request : step->requests) {
    step->results.push_back(request.reads_logits()
                                ? DeviceDrawResult(request, step->drawn[request.logit_row - step->first_row])
                                : DrawFromLogits(request, {}));
  }
}

absl::StatusOr<std::vector<DrawResult>> Llama::EndStep() {
  if (!backend_->draws()) return Model::EndStep();
  FARSPAN_CHECK(!steps_.empty(), "no step has begun");
  Step step = std::move(steps_.front());
  steps_.pop_front();
  End(&step);
  if (!step.status.ok()) return step.status;
  return std::move(step.results);
}

}  // namespace farspan
