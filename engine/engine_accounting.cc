// SPDX-License-Identifier: Apache-2.0
#include "engine/engine_accounting.h"

#include "engine/engine_loop.h"

namespace farspan {
namespace {

SequenceAccount AccountOf(const Sequence& sequence, bool running) {
  SequenceAccount account = {.id = sequence.id(),
                             .request = &sequence.request(),
                             .sample = sequence.sample(),
                             .running = running,
                             .computed_tokens = sequence.computed()};
  account.pages.reserve(sequence.block_table().pages().size());
  for (const PageRef& page : sequence.block_table().pages()) {
    account.pages.push_back(page ? page.page() : EngineAccounting::kNoPage);
  }
  return account;
}

}  // namespace

EngineAccounting EngineLoop::Account() const {
  EngineAccounting accounting;
  accounting.num_free_pages = pool_.num_free();
  for (int64_t i = 0; i < pool_.num_pages(); ++i) {
    const auto page = static_cast<PageId>(i);
    accounting.reference_counts.push_back(pool_.reference_count(page));
    if (pool_.num_holders(page) < pool_.reference_count(page)) accounting.cached_pages.push_back(page);
  }
  for (const auto& sequence : scheduler_.running()) accounting.sequences.push_back(AccountOf(*sequence, true));
  for (const auto& sequence : scheduler_.waiting()) accounting.sequences.push_back(AccountOf(*sequence, false));
  return accounting;
}

}  // namespace farspan
