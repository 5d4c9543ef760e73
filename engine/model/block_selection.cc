// SPDX-License-Identifier: Apache-2.0
#include "engine/model/block_selection.h"

#include <algorithm>
#include <span>

#include "engine/base/status_macros.h"

namespace farspan {
namespace {

template <typename T>
int64_t SizeBytes(int64_t count) {
  return count * static_cast<int64_t>(sizeof(T));
}

}  // namespace

absl::Status BlockSelection::Grow(int64_t size_bytes, std::unique_ptr<Buffer>* buffer) {
  if (*buffer != nullptr && (*buffer)->size_bytes() >= size_bytes) return absl::OkStatus();
  const int64_t held_bytes = *buffer == nullptr ? 0 : (*buffer)->size_bytes();
  buffer->reset();
  FARSPAN_ASSIGN_OR_RETURN(*buffer, backend_->Allocate(std::max(size_bytes, 2 * held_bytes), MemoryKind::kActivations));
  return absl::OkStatus();
}

void BlockSelection::TakeStaleRuns(const ForwardBatch& batch, KvCache* kv) {
  const int64_t page_tokens = kv->page_tokens(), run_tokens = kernels::KeyBoundsTokens(page_tokens);
  for (const kernels::SelectorRow& row : batch.selector_rows) {
    for (int64_t token = 0; token < row.num_blocks * row.block_tokens; token += run_tokens) {
      const auto entry = static_cast<size_t>(row.context.entries_begin + token / page_tokens);
      const kernels::KeyRun run = {.page = batch.entries[entry].page,
                                   .run = static_cast<int32_t>(token % page_tokens / run_tokens)};
      if (kv->TakeStaleKeyBounds(run)) stale_runs_.push_back(run);
    }
  }
}

absl::Status BlockSelection::Begin(const ForwardBatch& batch, KvCache* kv) {
  for (const kernels::KvSlot& slot : batch.kv_slots) kv->MarkWritten(static_cast<PageId>(slot.page), slot.token);
  stale_runs_.clear();
  num_rows_ = static_cast<int64_t>(batch.selector_rows.size());
  if (num_rows_ == 0) return absl::OkStatus();
  first_slot_ = static_cast<int64_t>(batch.entries.size());
  FARSPAN_RETURN_IF_ERROR(Grow(SizeBytes<kernels::KvEntry>(first_slot_ + batch.num_selected_slots), &entries_));
  FARSPAN_RETURN_IF_ERROR(Grow(SizeBytes<kernels::KvList>(static_cast<int64_t>(batch.decode_lists.size())), &lists_));
  FARSPAN_RETURN_IF_ERROR(backend_->Upload(entries_->data(), std::as_bytes(std::span(batch.entries))));
  FARSPAN_RETURN_IF_ERROR(backend_->Upload(lists_->data(), std::as_bytes(std::span(batch.decode_lists))));
  TakeStaleRuns(batch, kv);
  staged_runs_ = backend_->StageArray(std::span<const kernels::KeyRun>(stale_runs_));
  staged_rows_ = backend_->StageArray(std::span<const kernels::SelectorRow>(batch.selector_rows));
  return absl::OkStatus();
}

void BlockSelection::Abandon(KvCache* kv) {
  const int64_t run_tokens = kernels::KeyBoundsTokens(kv->page_tokens());
  for (const kernels::KeyRun& run : stale_runs_) kv->MarkWritten(static_cast<PageId>(run.page), run.run * run_tokens);
}

void BlockSelection::Choose(const Layer& layer, const KvCache& kv) {
  if (num_rows_ == 0) return;
  const kernels::KvLayerView cache = kv.layer(layer.layer);
  const kernels::KeyBoundsView bounds = kv.key_bounds(layer.layer);
  if (!stale_runs_.empty()) {
    backend_->FillKeyBounds(
        {.cache = cache, .bounds = bounds, .runs = staged_runs_, .num_runs = static_cast<int64_t>(stale_runs_.size())});
  }
  backend_->SelectBlocks({.q = layer.q,
                          .activation = backend_->activation(),
                          .cache = cache,
                          .bounds = bounds,
                          .entries = static_cast<kernels::KvEntry*>(entries_->data()),
                          .first_slot = first_slot_,
                          .lists = static_cast<kernels::KvList*>(lists_->data()),
                          .rows = staged_rows_,
                          .num_rows = num_rows_,
                          .layer = layer.layer,
                          .num_heads = layer.num_heads});
}

}  // namespace farspan
