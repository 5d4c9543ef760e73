// SPDX-License-Identifier: Apache-2.0
#include "engine/model/hash_model.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <thread>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"

namespace farspan {
namespace {

// Printable ASCII of the byte vocabulary, which begins with three control tokens.
constexpr TokenId kFirstPrintable = 3 + 0x20;
constexpr TokenId kNumPrintable = 0x7e - 0x20 + 1;
constexpr float kNeverDrawn = -1e4f;
constexpr float kBestLogit = 8.0f;

uint64_t Mix(uint64_t value) {
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
  value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
  return value ^ (value >> 31);
}

// A token's cell: its position in the K plane, its state in the V plane, both as raw bytes.
struct CellPlaces {
  std::byte* position;
  std::byte* state;
};

CellPlaces CellAt(const kernels::KvLayerView& layer, int32_t page, int32_t token) {
  std::byte* const k = static_cast<std::byte*>(layer.data) +
                       (page * layer.page_elements() + token * layer.head_dim) * layer.element_bytes();
  return {.position = k, .state = k + layer.plane_elements() * layer.element_bytes()};
}

}  // namespace

ModelShape HashModel::Shape(int64_t page_tokens, int64_t max_context_tokens, int64_t num_layers, KvDtype kv_dtype) {
  return {.num_layers = num_layers,
          .num_heads = 1,
          .num_kv_heads = 1,
          .head_dim = 8,
          .max_context_tokens = max_context_tokens,
          .vocab_size = kVocabSize,
          .page_tokens = page_tokens,
          .kv_dtype = kv_dtype};
}

HashModel::HashModel(const ModelShape& shape, int64_t max_batch_rows, const HashModelOptions& options)
    : shape_(shape), options_(options), max_batch_rows_(max_batch_rows) {
  info_.architecture = "hash";
  info_.weights_id = absl::StrCat("hash-", shape.num_layers);
  if (options.fail_at_step > 0) fail_from_call_ = options.fail_at_step - 1;
}

absl::Status HashModel::Forward(const ForwardBatch& batch, KvCache& kv) {
  const SteadyTime end = Clock::Real()->Now() + StepTime(batch);
  if (fail_from_call_ >= 0 && num_calls_++ >= fail_from_call_) return absl::InternalError("planted device fault");
  if (calls_without_memory_ > 0) {
    --calls_without_memory_;
    return absl::ResourceExhaustedError("planted lack of memory");
  }
  states_.clear();
  for (size_t row = 0; row < batch.token_ids.size(); ++row) {
    states_.push_back(EmbeddedState(batch.positions[row], batch.token_ids[row]));
  }
  for (int64_t layer = 0; layer < shape_.num_layers; ++layer) RunLayer(batch, layer, kv.layer(layer));
  logit_rows_ = batch.logit_rows;
  positions_ = batch.positions;
  if (options_.step_us + options_.prefill_us_per_token + options_.decode_us_per_row > 0) {
    std::this_thread::sleep_until(end);
  }
  return absl::OkStatus();
}

SteadyDuration HashModel::StepTime(const ForwardBatch& batch) const {
  const auto decode_rows = static_cast<int64_t>(batch.decode_rows.size());
  return std::chrono::microseconds(options_.step_us + options_.decode_us_per_row * decode_rows +
                                   options_.prefill_us_per_token * (batch.num_rows() - decode_rows));
}

void HashModel::RunLayer(const ForwardBatch& batch, int64_t layer_index, const kernels::KvLayerView& layer) {
  Append(batch, layer);
  auto selector = batch.selector_rows.begin();  // ascending in decode rows
  for (size_t i = 0; i < batch.decode_rows.size(); ++i) {
    const kernels::DecodeRow& row = batch.decode_rows[i];
    uint64_t& state = states_[static_cast<size_t>(row.row)];
    if (selector != batch.selector_rows.end() && selector->decode_row == static_cast<int64_t>(i)) {
      const kernels::SelectorRow& chooser = *selector++;
      if (!kernels::IsDenseLayer(chooser, layer_index)) {
        state = NextState(state, SumChosen(batch, chooser, layer));
        continue;
      }
    }
    ReadList(batch, batch.decode_lists[i], layer);
    state = NextState(state, SumSeen(row.position, row.left_window));
  }
  for (size_t i = 0; i < batch.prefill_tiles.size(); ++i) {
    const kernels::PrefillTile& tile = batch.prefill_tiles[i];
    ReadList(batch, batch.prefill_lists[i], layer);
    for (int64_t query = 0; query < tile.num_queries; ++query) {
      uint64_t& state = states_[static_cast<size_t>(tile.row + query)];
      state = NextState(state, SumSeen(tile.first_position + query, tile.left_window));
    }
  }
}

void HashModel::Append(const ForwardBatch& batch, const kernels::KvLayerView& layer) const {
  for (size_t row = 0; row < batch.kv_slots.size(); ++row) {
    const CellPlaces cell = CellAt(layer, batch.kv_slots[row].page, batch.kv_slots[row].token);
    std::memcpy(cell.position, &batch.positions[row], sizeof(int64_t));
    std::memcpy(cell.state, &states_[row], sizeof(uint64_t));
  }
}

void HashModel::ReadList(const ForwardBatch& batch, const kernels::KvList& list, const kernels::KvLayerView& layer) {
  keys_.positions.clear();
  keys_.sums.assign(1, 0);
  keys_.sums_ignoring.assign(1, 0);
  for (int64_t e = list.entries_begin; e < list.entries_begin + list.num_entries; ++e) {
    const kernels::KvEntry& entry = batch.entries[static_cast<size_t>(e)];
    for (int32_t i = 0; i < entry.num_valid; ++i) {
      const CellPlaces cell = CellAt(layer, entry.page, entry.first_valid + i);
      int64_t position = 0;
      uint64_t state = 0;
      std::memcpy(&position, cell.position, sizeof(position));
      std::memcpy(&state, cell.state, sizeof(state));
      if (position != entry.position + i) ++num_bad_reads_;
      const uint64_t hash = KeyHash(position, state);
      keys_.positions.push_back(entry.position + i);
      keys_.sums.push_back(keys_.sums.back() + hash);
      keys_.sums_ignoring.push_back(keys_.sums_ignoring.back() + (entry.ignores_left_window ? hash : 0));
    }
  }
}

uint64_t HashModel::SumSeen(int64_t position, int64_t left_window) const {
  const auto count_up_to = [this](int64_t last) {
    return static_cast<size_t>(std::upper_bound(keys_.positions.begin(), keys_.positions.end(), last) -
                               keys_.positions.begin());
  };
  const size_t end = count_up_to(position);
  if (left_window == kernels::kNoLeftWindow) return keys_.sums[end];
  const size_t begin = std::min(end, count_up_to(position - left_window));
  return keys_.sums[end] - keys_.sums[begin] + keys_.sums_ignoring[begin];
}

uint64_t HashModel::SumChosen(const ForwardBatch& batch, const kernels::SelectorRow& row,
                              const kernels::KvLayerView& layer) {
  struct Block {
    uint64_t rank;
    int64_t index;
    uint64_t sum;
  };
  ReadList(batch, row.context, layer);
  std::vector<Block> blocks;
  for (int64_t index = row.first_candidate; index < row.first_candidate + row.num_candidates; ++index) {
    const auto begin = static_cast<size_t>(index * row.block_tokens);
    const uint64_t sum = keys_.sums[begin + static_cast<size_t>(row.block_tokens)] - keys_.sums[begin];
    blocks.push_back({BlockRank(states_[static_cast<size_t>(row.row)], sum), index, sum});
  }
  std::sort(blocks.begin(), blocks.end(),
            [](const Block& a, const Block& b) { return a.rank != b.rank ? a.rank > b.rank : a.index < b.index; });
  uint64_t sum = 0;
  for (int64_t i = 0; i < row.num_picked; ++i) sum += blocks[static_cast<size_t>(i)].sum;
  for (const kernels::KvList& list : {row.leading, row.trailing}) {
    ReadList(batch, list, layer);
    sum += keys_.sums.back();
  }
  return sum;
}

absl::StatusOr<std::span<float>> HashModel::Logits(int64_t first, int64_t count) {
  logits_.resize(static_cast<size_t>(count * kVocabSize));
  for (int64_t i = 0; i < count; ++i) {
    const auto row = static_cast<size_t>(logit_rows_[static_cast<size_t>(first + i)]);
    const std::span<float> logits = std::span(logits_).subspan(static_cast<size_t>(i * kVocabSize), kVocabSize);
    FillLogits(states_[row], logits);
    if (positions_[row] == nan_position_) logits[0] = std::numeric_limits<float>::quiet_NaN();
  }
  return std::span<float>(logits_);
}

void HashModel::FillLogits(uint64_t top_state, std::span<float> logits) {
  std::fill(logits.begin(), logits.end(), kNeverDrawn);
  for (TokenId token = kFirstPrintable; token < kFirstPrintable + kNumPrintable; ++token) {
    logits[static_cast<size_t>(token)] =
        static_cast<float>(Mix(top_state ^ static_cast<uint64_t>(token)) % 1024) / 256.0f;
  }
  logits[static_cast<size_t>(TokenOf(top_state))] = kBestLogit;
}

uint64_t HashModel::EmbeddedState(int64_t position, TokenId token) {
  return Mix(static_cast<uint64_t>(position) << 32 | static_cast<uint32_t>(token));
}

// The sum of these does not depend on their order, so that a list may be cut and walked in any way.
uint64_t HashModel::KeyHash(int64_t position, uint64_t state) {
  return Mix(state ^ static_cast<uint64_t>(position) * 0x9e3779b97f4a7c15);
}

uint64_t HashModel::NextState(uint64_t state, uint64_t sum_of_key_hashes) {
  return Mix(state * 0xd1342543de82ef95 + sum_of_key_hashes);
}

uint64_t HashModel::BlockRank(uint64_t state, uint64_t sum_of_key_hashes) {
  return Mix(state ^ sum_of_key_hashes * 0xaef17502108ef2d9);
}

TokenId HashModel::TokenOf(uint64_t top_state) {
  return kFirstPrintable + static_cast<TokenId>(Mix(top_state) % static_cast<uint64_t>(kNumPrintable));
}

TokenId HashModel::NextToken(const std::vector<TokenId>& tokens, const Sees& sees, int64_t num_layers) {
  const auto count = static_cast<int64_t>(tokens.size());
  std::vector<uint64_t> states;
  for (int64_t i = 0; i < count; ++i) states.push_back(EmbeddedState(i, tokens[static_cast<size_t>(i)]));
  for (int64_t layer = 0; layer < num_layers; ++layer) {
    std::vector<uint64_t> next;
    for (int64_t query = 0; query < count; ++query) {
      uint64_t sum = 0;
      for (int64_t key = 0; key <= query; ++key) {
        if (sees(query, key)) sum += KeyHash(key, states[static_cast<size_t>(key)]);
      }
      next.push_back(NextState(states[static_cast<size_t>(query)], sum));
    }
    states = std::move(next);
  }
  return TokenOf(states.back());
}

TokenId HashModel::NextToken(const std::vector<TokenId>& tokens, int64_t num_layers) {
  std::vector<uint64_t> sums(static_cast<size_t>(num_layers), 0);
  uint64_t state = 0;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const auto position = static_cast<int64_t>(i);
    state = EmbeddedState(position, tokens[i]);
    for (uint64_t& sum : sums) {
      sum += KeyHash(position, state);
      state = NextState(state, sum);
    }
  }
  return TokenOf(state);
}

absl::StatusOr<std::unique_ptr<Model>> CreateHashModel(const HashModelOptions& hash, const ModelOptions& options) {
  if (options.max_context_tokens > hash.context_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("max_context_tokens: must be at most the model's ",
                                                   hash.context_tokens, ", got ", options.max_context_tokens));
  }
  const int64_t context = options.max_context_tokens > 0 ? options.max_context_tokens : hash.context_tokens;
  return std::make_unique<HashModel>(HashModel::Shape(options.page_tokens, context, hash.num_layers, options.kv_dtype),
                                     options.max_batch_rows, hash);
}

}  // namespace farspan
