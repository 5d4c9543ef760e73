// SPDX-License-Identifier: Apache-2.0
// PageChain: one sequence's full pages as the prefix cache names them, and how many of them it has published.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/kv/prefix_index.h"
#include "engine/kv/prefix_key.h"
#include "engine/sched/prompt_keys.h"

namespace farspan {

// Engine thread only.
class PageChain {
 public:
  PageChain(PromptKeys prompt, int64_t prompt_tokens, int64_t page_tokens);

  bool cacheable() const { return prompt_.prompt_scope != nullptr; }
  int64_t page_tokens() const { return page_tokens_; }
  const PrefixScope& scope(int64_t page) const;
  // The key of `page`, whose tokens are `tokens`; keys are made in order.
  const PrefixKey& Key(int64_t page, std::span<const TokenId> tokens);
  // The keys made so far; they begin with the prompt's full pages.
  int64_t num_keys() const { return static_cast<int64_t>(prompt_.keys.size()); }
  const PrefixKey& key(int64_t page) const { return prompt_.keys[static_cast<size_t>(page)]; }

  // Pages [0, num_published) are in the index, `last` being the place of the last one. A chain that was closed
  // publishes no more.
  int64_t num_published() const { return num_published_; }
  const PrefixIndex::Node* last() const { return last_; }
  bool publishes() const { return cacheable() && !closed_; }
  void SetPublished(int64_t num_pages, const PrefixIndex::Node* last);
  // The sequence drops pages, or its pages have another name already.
  void Close() { closed_ = true; }
  // The sequence holds no pages now.
  void Reset();

 private:
  PromptKeys prompt_;
  const int64_t prompt_pages_;  // full ones
  const int64_t page_tokens_;
  int64_t num_published_ = 0;
  const PrefixIndex::Node* last_ = nullptr;
  bool closed_ = false;
};

}  // namespace farspan
