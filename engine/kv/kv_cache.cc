// SPDX-License-Identifier: Apache-2.0
#include "engine/kv/kv_cache.h"

#include <cstring>
#include <utility>

#include "engine/base/check.h"
#include "engine/base/status_macros.h"

namespace farspan {

absl::StatusOr<std::unique_ptr<KvCache>> KvCache::Create(const ModelShape& shape, int64_t num_pages, Backend* backend) {
  FARSPAN_CHECK(num_pages > 0, "num_pages=", num_pages);
  FARSPAN_ASSIGN_OR_RETURN(std::unique_ptr<Buffer> arena,
                           backend->Allocate(num_pages * shape.kv_bytes_per_page(), MemoryKind::kKvPages));
  return std::unique_ptr<KvCache>(new KvCache(shape, num_pages, std::move(arena), backend));
}

kernels::KvLayerView KvCache::layer(int64_t layer) const {
  FARSPAN_CHECK(layer >= 0 && layer < shape_.num_layers, "layer=", layer);
  const int64_t layer_bytes = num_pages_ * shape_.kv_bytes_per_page() / shape_.num_layers;
  return {.data = static_cast<std::byte*>(arena_->data()) + layer * layer_bytes,
          .element = shape_.kv_dtype == KvDtype::kBf16 ? kernels::KvElement::kBf16 : kernels::KvElement::kF32,
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
}

void KvCache::PoisonPage(PageId page) {
  for (int64_t i = 0; i < shape_.num_layers; ++i) {
    const kernels::KvLayerView view = layer(i);
    const int64_t page_bytes = view.page_elements() * view.element_bytes();
    // All bits set is a NaN in bf16 and in f32.
    std::memset(static_cast<std::byte*>(view.data) + static_cast<int64_t>(page) * page_bytes, 0xff,
                static_cast<size_t>(page_bytes));
  }
}

}  // namespace farspan
