// SPDX-License-Identifier: Apache-2.0
// The bytes of all KV pages: one arena, one layout, layer by layer. Knows nothing of sequences or reference counts.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "engine/backend/backend.h"
#include "engine/base/ids.h"
#include "engine/base/model_shape.h"

namespace farspan {

// Engine thread only. Owns its arena, taken once; the backend outlives it.
class KvCache {
 public:
  // RESOURCE_EXHAUSTED names the bytes when the arena cannot be had.
  static absl::StatusOr<std::unique_ptr<KvCache>> Create(const ModelShape& shape, int64_t num_pages, Backend* backend);

  int64_t num_pages() const { return num_pages_; }
  int64_t page_tokens() const { return shape_.page_tokens; }
  int64_t size_bytes() const { return arena_->size_bytes(); }

  // The pages of one layer as kernels see them: [page][kv head][K|V][token][head_dim].
  kernels::KvLayerView layer(int64_t layer) const;

  // Copies a page's content in every layer, in order with the backend's ops.
  void CopyPage(PageId from, PageId to);

  // Overwrites a freed page with NaN in every layer, so that a test sees any read of it. Host-memory backends only.
  void PoisonPage(PageId page);

 private:
  KvCache(const ModelShape& shape, int64_t num_pages, std::unique_ptr<Buffer> arena, Backend* backend)
      : shape_(shape), num_pages_(num_pages), arena_(std::move(arena)), backend_(backend) {}

  const ModelShape shape_;
  const int64_t num_pages_;
  const std::unique_ptr<Buffer> arena_;
  Backend* const backend_;
};

}  // namespace farspan
