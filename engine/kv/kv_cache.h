// SPDX-License-Identifier: Apache-2.0
// The bytes of all KV pages: one arena, one layout, layer by layer; beside it the side data that selectors read. Knows
// nothing of sequences or reference counts.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/backend/backend.h"
#include "engine/base/ids.h"
#include "engine/base/model_shape.h"

namespace farspan {

// Engine thread only. Owns its arenas, taken once; the backend outlives it.
//
// Side data is derived from keys and filled lazily, since a page may have been written for a policy that needs none or
// come from the prefix cache. Whoever writes a token says so (CopyPage does by itself); whoever is about to read side
// data takes the runs that are stale and fills them first.
class KvCache {
 public:
  // Holds the side data of the selectors among `features`. RESOURCE_EXHAUSTED names the bytes when an arena cannot be
  // had.
  static absl::StatusOr<std::unique_ptr<KvCache>> Create(const ModelShape& shape, int64_t num_pages, Backend* backend,
                                                         PlanFeatures features = PlanFeatures::kNone);

  int64_t num_pages() const { return num_pages_; }
  int64_t page_tokens() const { return shape_.page_tokens; }
  int64_t size_bytes() const { return arena_->size_bytes(); }  // of the pages, without side data
  // The selectors whose side data is held, as bits of kSelectorFeatures.
  PlanFeatures side_data() const { return side_data_; }
  // Of one page, all kinds and layers.
  int64_t side_data_bytes_per_page() const { return SideDataBytesPerPage(shape_, side_data_); }
  static int64_t SideDataBytesPerPage(const ModelShape& shape, PlanFeatures features);

  // The pages of one layer as kernels see them: [page][kv head][K|V][token][head_dim].
  kernels::KvLayerView layer(int64_t layer) const;

  // Copies a page's content in every layer, in order with the backend's ops.
  void CopyPage(PageId from, PageId to);

  // The key bounds of one layer; side_data() has kKeyBoundsSelector.
  kernels::KeyBoundsView key_bounds(int64_t layer) const;

  // The token in this place of the page is written by the next ops: its side data is stale.
  void MarkWritten(PageId page, int64_t token);
  // The same for every token of the page.
  void MarkWritten(PageId page);
  // True when the bounds of this run are stale; they count as filled from then on, so the caller's next ops fill them
  // in every layer.
  bool TakeStaleKeyBounds(kernels::KeyRun run);

  // Overwrites a freed page and its side data with NaN in every layer, so that a test sees any read of it. Host-memory
  // backends only.
  void PoisonPage(PageId page);

 private:
  KvCache(const ModelShape& shape, int64_t num_pages, PlanFeatures side_data, std::unique_ptr<Buffer> arena,
          std::unique_ptr<Buffer> key_bounds, Backend* backend);

  // Of one page in one layer.
  int64_t key_bounds_page_bytes() const;

  const ModelShape shape_;
  const int64_t num_pages_;
  const PlanFeatures side_data_;
  const std::unique_ptr<Buffer> arena_;
  const std::unique_ptr<Buffer> key_bounds_;
  Backend* const backend_;
  std::vector<uint64_t> filled_runs_;  // [page], bit r: the key bounds of run r are those of the page's keys
};

}  // namespace farspan
