// SPDX-License-Identifier: Apache-2.0
#include "engine/kv/kv_cache.h"

#include <cstring>
#include <utility>

#include "engine/base/check.h"
#include "engine/base/status_macros.h"

namespace farspan {

namespace {

// K and V of a token take as many bytes as a pair of key bounds.
int64_t KeyBoundsLayerPageBytes(const ModelShape& shape) {
  return kernels::KeyBoundsPairs(shape.page_tokens) * shape.num_kv_heads * shape.kv_bytes_per_token_head();
}

kernels::KvElement ElementOf(KvDtype dtype) {
  switch (dtype) {
    case KvDtype::kBf16:
      return kernels::KvElement::kBf16;
    case KvDtype::kF32:
      return kernels::KvElement::kF32;
    case KvDtype::kF16:
      return kernels::KvElement::kF16;
    case KvDtype::kF8E4M3:
      return kernels::KvElement::kF8E4M3;
  }
  FARSPAN_CHECK(false, "dtype=", static_cast<int>(dtype));
}

// All bits set is a NaN in every element.
void Poison(void* layer, PageId page, int64_t page_bytes) {
  std::memset(static_cast<std::byte*>(layer) + static_cast<int64_t>(page) * page_bytes, 0xff,
              static_cast<size_t>(page_bytes));
}

}  // namespace

absl::StatusOr<std::unique_ptr<KvCache>> KvCache::Create(const ModelShape& shape, int64_t num_pages, Backend* backend,
                                                         PlanFeatures features) {
  FARSPAN_CHECK(num_pages > 0, "num_pages=", num_pages);
  const PlanFeatures side_data = features & kSelectorFeatures;
  FARSPAN_ASSIGN_OR_RETURN(std::unique_ptr<Buffer> arena,
                           backend->Allocate(num_pages * shape.kv_bytes_per_page(), MemoryKind::kKvPages));
  std::unique_ptr<Buffer> key_bounds;
  if (Covers(side_data, PlanFeatures::kKeyBoundsSelector)) {
    const int64_t run_tokens = kernels::KeyBoundsTokens(shape.page_tokens);
    FARSPAN_CHECK(shape.page_tokens % run_tokens == 0 && shape.page_tokens / run_tokens <= 64,
                  "page_tokens=", shape.page_tokens);
    const int64_t size_bytes = num_pages * shape.num_layers * KeyBoundsLayerPageBytes(shape);
    FARSPAN_ASSIGN_OR_RETURN(key_bounds, backend->Allocate(size_bytes, MemoryKind::kSideData));
  }
  return std::unique_ptr<KvCache>(
      new KvCache(shape, num_pages, side_data, std::move(arena), std::move(key_bounds), backend));
}

KvCache::KvCache(const ModelShape& shape, int64_t num_pages, PlanFeatures side_data, std::unique_ptr<Buffer> arena,
                 std::unique_ptr<Buffer> key_bounds, Backend* backend)
    : shape_(shape),
      num_pages_(num_pages),
      side_data_(side_data),
      arena_(std::move(arena)),
      key_bounds_(std::move(key_bounds)),
      backend_(backend),
      filled_runs_(key_bounds_ != nullptr ? static_cast<size_t>(num_pages) : 0) {}

kernels::KvLayerView KvCache::layer(int64_t layer) const {
  FARSPAN_CHECK(layer >= 0 && layer < shape_.num_layers, "layer=", layer);
  const int64_t layer_bytes = num_pages_ * shape_.kv_bytes_per_page() / shape_.num_layers;
  return {.data = static_cast<std::byte*>(arena_->data()) + layer * layer_bytes,
          .element = ElementOf(shape_.kv_dtype),
          .num_pages = num_pages_,
          .num_kv_heads = shape_.num_kv_heads,
          .page_tokens = shape_.page_tokens,
          .head_dim = shape_.head_dim};
}

void KvCache::CopyPage(PageId from, PageId to) {
  for (int64_t i = 0; i < shape_.num_layers; ++i) {
    const kernels::KvLayerView view = layer(i);
    const int64_t page_bytes = view.page_elements() * view.element_bytes();
    std::byte* pages = static_cast<std::byte*>(view.data);
    backend_->CopyBytes(pages + static_cast<int64_t>(to) * page_bytes, pages + static_cast<int64_t>(from) * page_bytes,
                        page_bytes);
  }
  MarkWritten(to);
}

int64_t KvCache::key_bounds_page_bytes() const { return key_bounds_ == nullptr ? 0 : KeyBoundsLayerPageBytes(shape_); }

int64_t KvCache::SideDataBytesPerPage(const ModelShape& shape, PlanFeatures features) {
  return Covers(features, PlanFeatures::kKeyBoundsSelector) ? shape.num_layers * KeyBoundsLayerPageBytes(shape) : 0;
}

kernels::KeyBoundsView KvCache::key_bounds(int64_t layer) const {
  FARSPAN_CHECK(key_bounds_ != nullptr && layer >= 0 && layer < shape_.num_layers, "layer=", layer);
  return {.data = static_cast<std::byte*>(key_bounds_->data()) + layer * num_pages_ * key_bounds_page_bytes()};
}

void KvCache::MarkWritten(PageId page, int64_t token) {
  if (key_bounds_ == nullptr) return;
  const int64_t run_tokens = kernels::KeyBoundsTokens(shape_.page_tokens), run = token / run_tokens;
  const int64_t last_run = shape_.page_tokens / run_tokens - 1;  // the whole page's bounds are filled with it
  filled_runs_[static_cast<size_t>(page)] &= ~(uint64_t{1} << run | uint64_t{1} << last_run);
}

void KvCache::MarkWritten(PageId page) {
  if (key_bounds_ != nullptr) filled_runs_[static_cast<size_t>(page)] = 0;
}

bool KvCache::TakeStaleKeyBounds(kernels::KeyRun run) {
  uint64_t& filled = filled_runs_[static_cast<size_t>(run.page)];
  const uint64_t bit = uint64_t{1} << run.run;
  if ((filled & bit) != 0) return false;
  filled |= bit;
  return true;
}

void KvCache::PoisonPage(PageId page) {
  for (int64_t i = 0; i < shape_.num_layers; ++i) {
    const kernels::KvLayerView view = layer(i);
    Poison(view.data, page, view.page_elements() * view.element_bytes());
    if (key_bounds_ != nullptr) Poison(key_bounds(i).data, page, key_bounds_page_bytes());
  }
}

}  // namespace farspan
