// SPDX-License-Identifier: Apache-2.0
#include "engine/kv/page_pool.h"

#include "engine/base/check.h"

namespace farspan {

PageRef PageRef::Share() const {
  FARSPAN_CHECK(pool_ != nullptr);
  pool_->AddReference(page_);
  return PageRef(pool_, page_);
}

void PageRef::Release() {
  if (PagePool* pool = std::exchange(pool_, nullptr)) pool->DropReference(page_);
}

PagePool::PagePool(int64_t num_pages)
    : reference_counts_(static_cast<size_t>(num_pages), 0), cached_(static_cast<size_t>(num_pages), false) {
  free_.reserve(static_cast<size_t>(num_pages));
  for (int64_t page = num_pages - 1; page >= 0; --page) free_.push_back(static_cast<PageId>(page));
}

PagePool::~PagePool() {
  FARSPAN_CHECK(num_free() == num_pages(), "pages still referenced: ", num_pages() - num_free());
}

std::optional<PageRef> PagePool::Take() {
  if (free_.empty()) return std::nullopt;
  const PageId page = free_.back();
  free_.pop_back();
  AddReference(page);
  return PageRef(this, page);
}

void PagePool::AddReference(PageId page) {
  if (held_by_cache_alone(page)) --num_cached_;
  ++reference_counts_[static_cast<size_t>(page)];
}

void PagePool::SetCached(PageId page, bool cached) {
  FARSPAN_CHECK(cached_[static_cast<size_t>(page)] != cached, "page=", static_cast<int32_t>(page));
  if (held_by_cache_alone(page)) --num_cached_;
  cached_[static_cast<size_t>(page)] = cached;
  if (held_by_cache_alone(page)) ++num_cached_;
}

void PagePool::DropReference(PageId page) {
  int32_t& count = reference_counts_[static_cast<size_t>(page)];
  FARSPAN_CHECK(count > 0, "page=", static_cast<int32_t>(page));
  if (held_by_cache_alone(page)) --num_cached_;
  if (--count == 0) free_.push_back(page);
  if (held_by_cache_alone(page)) ++num_cached_;
}

}  // namespace farspan
