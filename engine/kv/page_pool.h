// SPDX-License-Identifier: Apache-2.0
// Page ids with reference counts; no bytes, no sequences. A page returns to the pool when its last PageRef dies.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "engine/base/ids.h"

namespace farspan {

class PagePool;

// One counted reference to a page; the pool outlives it. Move-only: sharing is spelled Share().
class PageRef {
 public:
  PageRef() = default;
  ~PageRef() { Release(); }
  PageRef(PageRef&& other) noexcept : pool_(std::exchange(other.pool_, nullptr)), page_(other.page_) {}
  PageRef& operator=(PageRef&& other) noexcept {
    if (this != &other) {
      Release();
      pool_ = std::exchange(other.pool_, nullptr);
      page_ = other.page_;
    }
    return *this;
  }
  PageRef(const PageRef&) = delete;
  PageRef& operator=(const PageRef&) = delete;

  explicit operator bool() const { return pool_ != nullptr; }
  PageId page() const { return page_; }
  PageRef Share() const;
  void Release();

 private:
  friend class PagePool;
  PageRef(PagePool* pool, PageId page) : pool_(pool), page_(page) {}

  PagePool* pool_ = nullptr;
  PageId page_{};
};

// Engine thread only. Invariant: num_free() + num_used() + num_cached() == num_pages().
class PagePool {
 public:
  explicit PagePool(int64_t num_pages);
  ~PagePool();
  PagePool(const PagePool&) = delete;
  PagePool& operator=(const PagePool&) = delete;

  // The most recently freed page, whose bytes are likeliest in cache; nullopt when none is free.
  std::optional<PageRef> Take();

  int64_t num_pages() const { return static_cast<int64_t>(reference_counts_.size()); }
  int64_t num_free() const { return static_cast<int64_t>(free_.size()); }
  // Pages that something other than the prefix cache holds.
  int64_t num_used() const { return num_pages() - num_free() - num_cached_; }
  // Pages that the prefix cache alone holds: free as soon as it lets them go.
  int64_t num_cached() const { return num_cached_; }
  int32_t reference_count(PageId page) const { return reference_counts_[static_cast<size_t>(page)]; }
  bool held_by_cache_alone(PageId page) const {
    return cached_[static_cast<size_t>(page)] && reference_count(page) == 1;
  }
  // References to the page other than the prefix cache's.
  int32_t num_holders(PageId page) const {
    return reference_count(page) - (cached_[static_cast<size_t>(page)] ? 1 : 0);
  }
  // For the prefix cache: whether one of the page's references is its own.
  void SetCached(PageId page, bool cached);

 private:
  friend class PageRef;
  void AddReference(PageId page);
  void DropReference(PageId page);

  std::vector<int32_t> reference_counts_;
  std::vector<bool> cached_;
  int64_t num_cached_ = 0;    // derived: pages for which held_by_cache_alone
  std::vector<PageId> free_;  // a stack
};

}  // namespace farspan
