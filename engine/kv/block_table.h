// SPDX-License-Identifier: Apache-2.0
// The pages of one sequence, by logical page number, with holes where pages were dropped.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/base/token_range.h"
#include "engine/kv/page_pool.h"

namespace farspan {

// Engine thread only. Releases its pages on destruction.
class BlockTable {
 public:
  explicit BlockTable(int64_t page_tokens) : page_tokens_(page_tokens) {}

  // Pages that must be taken so that every token below `end_token` that is not dropped has a place.
  int64_t PagesMissing(int64_t end_token) const;
  // Appends the next logical page.
  void Append(PageRef page);
  // Appends a logical page that is dropped already.
  void AppendDropped();
  // Shares the first pages of `other`, those that hold tokens below `end_token`, holes included. This table is empty.
  void ShareFrom(const BlockTable& other, int64_t end_token);
  // Puts `page` in the place of a resident one, which is released.
  void Replace(int64_t index, PageRef page);
  // Releases the pages wholly inside `tokens`; the rest of the range stays resident. Returns the tokens released.
  int64_t Drop(TokenRange tokens);
  void Clear();

  // Logical pages in order; empty references are dropped ones.
  const std::vector<PageRef>& pages() const { return pages_; }
  // The half-open range of logical pages wholly inside `tokens`, without those known to be dropped at its begin.
  TokenRange PagesInside(TokenRange tokens) const;

  // The page that holds logical `token`; it must be resident.
  PageId page_of(int64_t token) const;
  bool resident(int64_t token) const;
  // Logical tokens that the table has places for, dropped ones included.
  int64_t capacity_tokens() const { return static_cast<int64_t>(pages_.size()) * page_tokens_; }
  // Tokens of pages that were dropped.
  int64_t dropped_tokens() const { return (static_cast<int64_t>(pages_.size()) - num_resident_pages_) * page_tokens_; }
  int64_t num_resident_pages() const { return num_resident_pages_; }
  int64_t page_tokens() const { return page_tokens_; }
  // Never that of another table, and another one after every change but appended pages: whoever meets an identity again
  // finds the pages that it saw under it in their places.
  uint64_t identity() const { return identity_; }

 private:
  static uint64_t NextIdentity();
  // These logical pages are dropped from now on.
  void MarkDropped(TokenRange pages);

  const int64_t page_tokens_;
  uint64_t identity_ = NextIdentity();
  std::vector<PageRef> pages_;  // empty references are dropped pages
  int64_t num_resident_pages_ = 0;
  TokenRange dropped_run_;  // logical pages in a row that are dropped: where the last drop ended, the next goes on
};

}  // namespace farspan
