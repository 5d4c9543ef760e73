// SPDX-License-Identifier: Apache-2.0
#include "engine/sched/page_chain.h"

#include <utility>

#include "engine/base/check.h"

namespace farspan {

PageChain::PageChain(PromptKeys prompt, int64_t prompt_tokens, int64_t page_tokens)
    : prompt_(std::move(prompt)), prompt_pages_(prompt_tokens / page_tokens), page_tokens_(page_tokens) {}

const PrefixScope& PageChain::scope(int64_t page) const {
  return page < prompt_pages_ ? prompt_.prompt_scope : prompt_.decode_scope;
}

const PrefixKey& PageChain::Key(int64_t page, std::span<const TokenId> tokens) {
  FARSPAN_CHECK(page <= num_keys() && static_cast<int64_t>(tokens.size()) == page_tokens_, "page=", page);
  if (page == num_keys()) {
    const PrefixKey parent = page == 0 ? PrefixKey{} : prompt_.keys.back();
    prompt_.keys.push_back(MakePrefixKey(scope(page), parent, tokens));
  }
  return key(page);
}

void PageChain::SetPublished(int64_t num_pages, const PrefixIndex::Node* last) {
  num_published_ = num_pages;
  last_ = last;
}

void PageChain::Reset() {
  SetPublished(0, nullptr);
  closed_ = false;
}

}  // namespace farspan
