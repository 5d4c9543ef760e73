// SPDX-License-Identifier: Apache-2.0
#include "tests/support/hash_model.h"

#include <algorithm>
#include <cstring>
#include <limits>

namespace farspan {
namespace {

// What one cached token holds.
struct Cell {
  int32_t position;
  int32_t token;
};

uint64_t Mix(uint64_t value) {
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
  value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
  return value ^ (value >> 31);
}

// Order does not matter, so a list may be cut and walked in any way; content, position and count do.
uint64_t CellHash(const Cell& cell) {
  return Mix(static_cast<uint64_t>(static_cast<uint32_t>(cell.position)) << 32 |
             static_cast<uint64_t>(static_cast<uint32_t>(cell.token)));
}

TokenId TokenOf(uint64_t hash) { return static_cast<TokenId>(Mix(hash) % HashModel::kVocabSize); }

std::byte* CellAddress(const kernels::KvLayerView& layer, int32_t page, int32_t token) {
  return static_cast<std::byte*>(layer.data) +
         (page * layer.page_elements() + token * layer.head_dim) * layer.element_bytes();
}

}  // namespace

ModelShape HashModel::Shape(int64_t page_tokens, int64_t max_context_tokens) {
  return {.num_layers = 1,
          .num_heads = 1,
          .num_kv_heads = 1,
          .head_dim = 2,
          .max_context_tokens = max_context_tokens,
          .vocab_size = kVocabSize,
          .page_tokens = page_tokens,
          .kv_dtype = KvDtype::kF32};
}

absl::Status HashModel::Forward(const ForwardBatch& batch, KvCache& kv) {
  if (fail_from_call_ >= 0 && num_calls_++ >= fail_from_call_) return absl::InternalError("planted device fault");
  const kernels::KvLayerView layer = kv.layer(0);
  for (int64_t row = 0; row < batch.num_rows(); ++row) {
    const auto i = static_cast<size_t>(row);
    const Cell cell = {.position = static_cast<int32_t>(batch.positions[i]), .token = batch.token_ids[i]};
    std::memcpy(CellAddress(layer, batch.kv_slots[i].page, batch.kv_slots[i].token), &cell, sizeof(cell));
  }
  hashes_.assign(static_cast<size_t>(batch.num_rows()), 0);
  for (size_t i = 0; i < batch.decode_rows.size(); ++i) {
    const kernels::DecodeRow& row = batch.decode_rows[i];
    hashes_[static_cast<size_t>(row.row)] = HashOfRow(batch, batch.decode_lists[i], row.position, row.left_window, kv);
  }
  for (size_t i = 0; i < batch.prefill_tiles.size(); ++i) {
    const kernels::PrefillTile& tile = batch.prefill_tiles[i];
    for (int64_t query = 0; query < tile.num_queries; ++query) {
      hashes_[static_cast<size_t>(tile.row + query)] =
          HashOfRow(batch, batch.prefill_lists[i], tile.first_position + query, tile.left_window, kv);
    }
  }
  logit_rows_ = batch.logit_rows;
  positions_ = batch.positions;
  return absl::OkStatus();
}

uint64_t HashModel::HashOfRow(const ForwardBatch& batch, const kernels::KvList& list, int64_t position,
                              int64_t left_window, const KvCache& kv) {
  const kernels::KvLayerView layer = kv.layer(0);
  uint64_t hash = 0;
  for (int64_t e = list.entries_begin; e < list.entries_begin + list.num_entries; ++e) {
    const kernels::KvEntry& entry = batch.entries[static_cast<size_t>(e)];
    for (int32_t i = 0; i < entry.num_valid; ++i) {
      const int64_t key = entry.position + i;
      const bool in_window =
          entry.ignores_left_window || left_window == kernels::kNoLeftWindow || key > position - left_window;
      if (key > position || !in_window) continue;
      Cell cell{};
      std::memcpy(&cell, CellAddress(layer, entry.page, entry.first_valid + i), sizeof(cell));
      if (cell.position != key) ++num_bad_reads_;
      hash += CellHash(cell);
    }
  }
  return hash;
}

absl::StatusOr<std::span<float>> HashModel::Logits(int64_t first, int64_t count) {
  logits_.assign(static_cast<size_t>(count * kVocabSize), 0.0f);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = logit_rows_[static_cast<size_t>(first + i)];
    const uint64_t hash = hashes_[static_cast<size_t>(row)];
    float* logits = logits_.data() + i * kVocabSize;
    for (int64_t token = 0; token < kVocabSize; ++token) {
      logits[token] = static_cast<float>(Mix(hash ^ static_cast<uint64_t>(token)) % 1024) / 256.0f;
    }
    logits[TokenOf(hash)] = 8.0f;
    if (positions_[static_cast<size_t>(row)] == nan_position_) {
      logits[0] = std::numeric_limits<float>::quiet_NaN();
    }
  }
  return std::span<float>(logits_);
}

TokenId HashModel::NextToken(const std::vector<TokenId>& tokens) {
  return NextToken(tokens, std::vector<bool>(tokens.size(), true));
}

TokenId HashModel::NextToken(const std::vector<TokenId>& tokens, const std::vector<bool>& visible) {
  uint64_t hash = 0;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (visible[i]) hash += CellHash({.position = static_cast<int32_t>(i), .token = tokens[i]});
  }
  return TokenOf(hash);
}

}  // namespace farspan
