// SPDX-License-Identifier: Apache-2.0
#include "engine/model/block_selection.h"

#include <algorithm>
#include <span>
#include <utility>

#include "absl/container/flat_hash_set.h"

namespace farspan {

void BlockSelection::TakeStaleRuns(const ForwardBatch& batch, KvCache* kv) {
  const int64_t page_tokens = kv->page_tokens(), run_tokens = kernels::KeyBoundsTokens(page_tokens);
  absl::flat_hash_set<std::pair<int64_t, int64_t>> written;
  for (const kernels::KvSlot& slot : batch.kv_slots) written.emplace(slot.page, slot.token / run_tokens);
  absl::flat_hash_map<uint64_t, int64_t> filled_tokens;
  for (size_t i = 0; i < batch.selector_rows.size(); ++i) {
    const kernels::SelectorRow& row = batch.selector_rows[i];
    const uint64_t table = i < batch.selector_tables.size() ? batch.selector_tables[i] : 0;
    const auto seen = filled_tokens_.find(table);
    const int64_t end = row.num_blocks * row.block_tokens;
    if (table != 0) filled_tokens[table] = end;
    for (int64_t token = seen == filled_tokens_.end() ? 0 : seen->second; token < end; token += run_tokens) {
      const auto entry = static_cast<size_t>(row.context.entries_begin + token / page_tokens);
      const kernels::KeyRun run = {.page = batch.entries[entry].page,
                                   .run = static_cast<int32_t>(token % page_tokens / run_tokens)};
      if (!kv->TakeStaleKeyBounds(run)) continue;
      (written.contains(std::pair<int64_t, int64_t>(run.page, run.run)) ? completed_runs_ : earlier_runs_)
          .push_back(run);
    }
  }
  filled_tokens_ = std::move(filled_tokens);
}

void BlockSelection::Begin(const ForwardBatch& batch, int64_t least_rows, KvCache* kv) {
  for (const kernels::KvSlot& slot : batch.kv_slots) kv->MarkWritten(static_cast<PageId>(slot.page), slot.token);
  earlier_runs_.clear();
  completed_runs_.clear();
  rows_ = batch.selector_rows;
  if (rows_.empty()) return;
  TakeStaleRuns(batch, kv);
  const auto least = static_cast<size_t>(least_rows);
  completed_runs_.resize(std::max(completed_runs_.size(), least), {.page = -1, .run = 0});
  rows_.resize(std::max(rows_.size(), least));
  staged_runs_ = backend_->StageArray(std::span<const kernels::KeyRun>(completed_runs_));
  staged_rows_ = backend_->StageArray(std::span<const kernels::SelectorRow>(rows_));
}

void BlockSelection::FillEarlier(int64_t num_layers, const KvCache& kv) {
  if (rows_.empty() || earlier_runs_.empty()) return;
  const kernels::KeyRun* runs = backend_->StageArray(std::span<const kernels::KeyRun>(earlier_runs_));
  const auto num_runs = static_cast<int64_t>(earlier_runs_.size());
  for (int64_t i = 0; i < num_layers; ++i) {
    backend_->FillKeyBounds({.cache = kv.layer(i), .bounds = kv.key_bounds(i), .runs = runs, .num_runs = num_runs});
  }
}

std::vector<kernels::KeyRun> BlockSelection::TakenRuns() const {
  std::vector<kernels::KeyRun> runs = earlier_runs_;
  for (const kernels::KeyRun& run : completed_runs_) {
    if (run.page >= 0) runs.push_back(run);
  }
  return runs;
}

void BlockSelection::Abandon(std::span<const kernels::KeyRun> runs, KvCache* kv) {
  filled_tokens_.clear();
  const int64_t run_tokens = kernels::KeyBoundsTokens(kv->page_tokens());
  for (const kernels::KeyRun& run : runs) kv->MarkWritten(static_cast<PageId>(run.page), run.run * run_tokens);
}

void BlockSelection::Choose(const Layer& layer, const KvCache& kv) {
  if (rows_.empty()) return;
  const kernels::KvLayerView cache = kv.layer(layer.layer);
  const kernels::KeyBoundsView bounds = kv.key_bounds(layer.layer);
  const auto num_runs = static_cast<int64_t>(completed_runs_.size());
  if (num_runs > 0) {
    backend_->FillKeyBounds({.cache = cache, .bounds = bounds, .runs = staged_runs_, .num_runs = num_runs});
  }
  backend_->SelectBlocks({.q = layer.q,
                          .activation = backend_->activation(),
                          .cache = cache,
                          .bounds = bounds,
                          .entries = layer.entries,
                          .lists = layer.lists,
                          .rows = staged_rows_,
                          .num_rows = static_cast<int64_t>(rows_.size()),
                          .layer = layer.layer,
                          .num_heads = layer.num_heads});
}

}  // namespace farspan
