// SPDX-License-Identifier: Apache-2.0
// PageLedger: how many pages there will be once a plan, as far as it is made, has been carried out.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "engine/kv/block_table.h"
#include "engine/kv/page_pool.h"
#include "engine/sched/sequence.h"

namespace farspan {

// One thread, for one plan; a value, so that a plan can be tried and thrown away. The pool outlives it and stays as it
// is.
class PageLedger {
 public:
  explicit PageLedger(const PagePool* pool) : pool_(pool), num_free_(pool->num_free() + pool->num_cached()) {}

  // Pages that runs may take: free, or free once the prefix cache lets them go.
  int64_t num_free() const { return num_free_; }
  void Take(int64_t pages) { num_free_ -= pages; }

  // One holder more or less of a page that exists; the cache is no holder.
  void Hold(PageId page);
  void LetGo(PageId page);
  // Every page of a sequence that leaves. What it drops has been let go before.
  void LetGoOfAll(const Sequence& sequence);
  // Those that nobody holds: holding them takes them from the free ones.
  int64_t NumIdle(const std::vector<PageId>& pages) const;

 private:
  int32_t Holders(PageId page) const;

  const PagePool* pool_;
  int64_t num_free_;
  absl::flat_hash_map<PageId, int32_t> changes_;
};

// Of the logical pages in `range`, those that are not dropped.
std::vector<PageId> HeldPages(const BlockTable& table, TokenRange range);

}  // namespace farspan
