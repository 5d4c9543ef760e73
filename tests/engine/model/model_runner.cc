// SPDX-License-Identifier: Apache-2.0
#include "tests/engine/model/model_runner.h"

#include <algorithm>

#include "engine/base/check.h"
#include "engine/base/math.h"

namespace farspan {

ModelRunner::ModelRunner(Model* model, Backend* backend, int num_sequences, int64_t pages_per_sequence)
    : model_(model),
      num_sequences_(num_sequences),
      pages_per_sequence_(pages_per_sequence),
      cache_(*KvCache::Create(model->shape(), num_sequences * pages_per_sequence, backend)),
      lengths_(static_cast<size_t>(num_sequences), 0) {
  // A read of a token that was never written shows as NaN.
  for (int64_t page = 0; page < cache_->num_pages(); ++page) cache_->PoisonPage(PageId{static_cast<int32_t>(page)});
}

int32_t ModelRunner::PageOf(int sequence, int64_t index) const {
  FARSPAN_CHECK(index < pages_per_sequence_);
  return static_cast<int32_t>((pages_per_sequence_ - 1 - index) * num_sequences_ + sequence);
}

kernels::KvList ModelRunner::AddList(int sequence, int64_t end, ForwardBatch& batch) const {
  const int64_t page_tokens = model_->shape().page_tokens;
  kernels::KvList list{.entries_begin = static_cast<int64_t>(batch.entries.size())};
  for (int64_t begin = 0; begin < end; begin += page_tokens) {
    batch.entries.push_back({.page = PageOf(sequence, begin / page_tokens),
                             .num_valid = static_cast<int32_t>(std::min(page_tokens, end - begin)),
                             .position = begin});
    ++list.num_entries;
  }
  return list;
}

void ModelRunner::AddRows(const Chunk& chunk, ForwardBatch& batch) {
  const int64_t page_tokens = model_->shape().page_tokens;
  int64_t& length = lengths_[static_cast<size_t>(chunk.sequence)];
  for (const TokenId token : chunk.tokens) {
    batch.logit_rows.push_back(batch.num_rows());
    batch.token_ids.push_back(token);
    batch.positions.push_back(length);
    batch.kv_slots.push_back(
        {.page = PageOf(chunk.sequence, length / page_tokens), .token = static_cast<int32_t>(length % page_tokens)});
    ++length;
  }
}

void ModelRunner::AddDecode(const Chunk& chunk, ForwardBatch& batch) {
  FARSPAN_CHECK(chunk.tokens.size() == 1);
  const int64_t position = lengths_[static_cast<size_t>(chunk.sequence)];
  batch.decode_rows.push_back({.row = batch.num_rows(), .position = position, .left_window = kernels::kNoLeftWindow});
  const kernels::KvList list = AddList(chunk.sequence, position + 1, batch);
  batch.decode_lists.insert(batch.decode_lists.end(), static_cast<size_t>(model_->shape().num_kv_heads), list);
  AddRows(chunk, batch);
}

void ModelRunner::AddPrefill(const Chunk& chunk, ForwardBatch& batch) {
  const int64_t begin = lengths_[static_cast<size_t>(chunk.sequence)];
  const int64_t end = begin + static_cast<int64_t>(chunk.tokens.size());
  const int64_t first_row = batch.num_rows();
  const kernels::KvList list = AddList(chunk.sequence, end, batch);
  for (int64_t position = begin; position < end;) {
    const int64_t tile_end =
        std::min(end, (position / kernels::kPrefillTileQueries + 1) * kernels::kPrefillTileQueries);
    batch.prefill_tiles.push_back({.row = first_row + position - begin,
                                   .num_queries = tile_end - position,
                                   .first_position = position,
                                   .left_window = kernels::kNoLeftWindow});
    batch.prefill_lists.insert(batch.prefill_lists.end(), static_cast<size_t>(model_->shape().num_heads), list);
    position = tile_end;
  }
  AddRows(chunk, batch);
}

std::vector<std::vector<float>> ModelRunner::Run(std::span<const Chunk> chunks) {
  ForwardBatch batch;
  for (const Chunk& chunk : chunks) chunk.decode ? AddDecode(chunk, batch) : AddPrefill(chunk, batch);
  FARSPAN_CHECK(model_->Forward(batch, *cache_).ok());
  std::vector<std::vector<float>> rows;
  for (int64_t first = 0; first < batch.num_logit_rows(); first += kMaxLogitRows) {
    const int64_t count = std::min(kMaxLogitRows, batch.num_logit_rows() - first);
    const absl::StatusOr<std::span<float>> logits = model_->Logits(first, count);
    FARSPAN_CHECK(logits.ok());
    const auto vocab = static_cast<size_t>(model_->shape().vocab_size);
    for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
      const std::span<float> row = logits->subspan(i * vocab, vocab);
      rows.emplace_back(row.begin(), row.end());
    }
  }
  return rows;
}

}  // namespace farspan
