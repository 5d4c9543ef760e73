// SPDX-License-Identifier: Apache-2.0
#include "engine/kv/block_table.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "engine/base/check.h"
#include "engine/base/math.h"

namespace farspan {

uint64_t BlockTable::NextIdentity() {
  static std::atomic<uint64_t> last{0};
  return last.fetch_add(1, std::memory_order_relaxed) + 1;
}

int64_t BlockTable::PagesMissing(int64_t end_token) const {
  return std::max<int64_t>(0, CeilDiv(end_token, page_tokens_) - static_cast<int64_t>(pages_.size()));
}

void BlockTable::Append(PageRef page) {
  pages_.push_back(std::move(page));
  ++num_resident_pages_;
}

void BlockTable::ShareFrom(const BlockTable& other, int64_t end_token) {
  FARSPAN_CHECK(pages_.empty() && end_token <= other.capacity_tokens(), "end_token=", end_token);
  for (int64_t i = 0; i < CeilDiv(end_token, page_tokens_); ++i) {
    const PageRef& page = other.pages_[static_cast<size_t>(i)];
    page ? Append(page.Share()) : AppendDropped();
  }
}

void BlockTable::AppendDropped() {
  const auto index = static_cast<int64_t>(pages_.size());
  pages_.emplace_back();
  MarkDropped({.begin = index, .end = index + 1});
}

void BlockTable::MarkDropped(TokenRange pages) {
  if (pages.empty()) return;
  if (pages.begin == dropped_run_.end && !dropped_run_.empty()) {
    dropped_run_.end = pages.end;
  } else {
    dropped_run_ = pages;
  }
}

void BlockTable::Replace(int64_t index, PageRef page) {
  PageRef& place = pages_[static_cast<size_t>(index)];
  FARSPAN_CHECK(place && page, "index=", index);
  place = std::move(page);
  identity_ = NextIdentity();
}

TokenRange BlockTable::PagesInside(TokenRange tokens) const {
  int64_t begin = CeilDiv(std::max<int64_t>(0, tokens.begin), page_tokens_);
  if (begin >= dropped_run_.begin && begin < dropped_run_.end) begin = dropped_run_.end;
  return {.begin = begin, .end = std::min(tokens.end / page_tokens_, static_cast<int64_t>(pages_.size()))};
}

int64_t BlockTable::Drop(TokenRange tokens) {
  const auto [first, last] = PagesInside(tokens);
  int64_t released = 0;
  for (int64_t i = first; i < last; ++i) {
    PageRef& page = pages_[static_cast<size_t>(i)];
    if (!page) continue;
    page.Release();
    --num_resident_pages_;
    released += page_tokens_;
  }
  MarkDropped({.begin = first, .end = last});
  if (released > 0) identity_ = NextIdentity();
  return released;
}

void BlockTable::Clear() {
  pages_.clear();
  dropped_run_ = {};
  num_resident_pages_ = 0;
  identity_ = NextIdentity();
}

bool BlockTable::resident(int64_t token) const {
  const int64_t index = token / page_tokens_;
  return token >= 0 && index < static_cast<int64_t>(pages_.size()) && pages_[static_cast<size_t>(index)];
}

PageId BlockTable::page_of(int64_t token) const {
  FARSPAN_CHECK(resident(token), "token=", token);
  return pages_[static_cast<size_t>(token / page_tokens_)].page();
}

}  // namespace farspan
