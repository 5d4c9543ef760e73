// SPDX-License-Identifier: Apache-2.0
#include "engine/sched/page_ledger.h"

#include <algorithm>

namespace farspan {

void PageLedger::Hold(PageId page) {
  if (Holders(page) == 0) --num_free_;
  ++changes_[page];
}

void PageLedger::LetGo(PageId page) {
  --changes_[page];
  if (Holders(page) == 0) ++num_free_;
}

void PageLedger::LetGoOfAll(const Sequence& sequence) {
  const BlockTable& table = sequence.block_table();
  for (const PageId page : HeldPages(table, {.begin = 0, .end = std::ssize(table.pages())})) LetGo(page);
  for (const PageId page : HeldPages(table, table.PagesInside(sequence.pending_drop()))) Hold(page);
}

int64_t PageLedger::NumIdle(const std::vector<PageId>& pages) const {
  return std::count_if(pages.begin(), pages.end(), [this](PageId page) { return Holders(page) == 0; });
}

int32_t PageLedger::Holders(PageId page) const {
  const auto change = changes_.find(page);
  return pool_->num_holders(page) + (change == changes_.end() ? 0 : change->second);
}

std::vector<PageId> HeldPages(const BlockTable& table, TokenRange range) {
  std::vector<PageId> held;
  for (int64_t i = range.begin; i < range.end; ++i) {
    if (const PageRef& page = table.pages()[static_cast<size_t>(i)]) held.push_back(page.page());
  }
  return held;
}

}  // namespace farspan
