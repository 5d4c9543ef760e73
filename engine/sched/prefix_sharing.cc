// SPDX-License-Identifier: Apache-2.0
#include "engine/sched/prefix_sharing.h"

#include <algorithm>
#include <span>
#include <utility>
#include <vector>

#include "engine/base/check.h"

namespace farspan {
namespace {

TokenRange PageTokens(const Sequence& sequence, int64_t page) {
  const int64_t page_tokens = sequence.chain().page_tokens();
  return {.begin = page * page_tokens, .end = (page + 1) * page_tokens};
}

// What no query at or after `end_token` reads.
TokenRange DroppedAt(const Sequence& sequence, int64_t end_token) {
  if (end_token == 0) return {};
  return sequence.request()
      .policy->Plan({.queries = {.begin = end_token - 1, .end = end_token}, .prompt_tokens = sequence.prompt_tokens()})
      .drop;
}

bool Inside(TokenRange part, TokenRange whole) { return part.begin >= whole.begin && part.end <= whole.end; }

}  // namespace

PrefixMatch FindPrefix(const Sequence& sequence, const PrefixIndex& index) {
  PrefixMatch match;
  const PageChain& chain = sequence.chain();
  if (!chain.cacheable() || sequence.request().prompt_logprobs) return match;
  // One token at least is computed: its logits are what the request wants.
  const int64_t most = std::min(chain.num_keys(), (sequence.num_tokens() - 1) / chain.page_tokens());
  std::vector<PageId> pages;
  const PrefixIndex::Node* node = nullptr;
  std::vector<TokenId> scratch;
  for (int64_t page = 0; page < most; ++page) {
    const std::span<const TokenId> tokens = sequence.Tokens(PageTokens(sequence, page), &scratch);
    node = index.Find(node, {.key = chain.key(page), .scope = chain.scope(page), .tokens = tokens});
    if (node == nullptr) break;
    pages.push_back(index.page(*node));
  }
  match.pages = static_cast<int64_t>(pages.size());
  const TokenRange dropped = DroppedAt(sequence, match.pages * chain.page_tokens());
  for (int64_t page = 0; page < match.pages; ++page) {
    if (!Inside(PageTokens(sequence, page), dropped)) match.held.push_back(pages[static_cast<size_t>(page)]);
  }
  return match;
}

void AttachPrefix(int64_t pages, PrefixIndex* index, Sequence* sequence) {
  if (pages == 0) return;
  PageChain& chain = sequence->chain();
  const int64_t end_token = pages * chain.page_tokens();
  const TokenRange dropped = DroppedAt(*sequence, end_token);
  const PrefixIndex::Node* node = nullptr;
  std::vector<TokenId> scratch;
  for (int64_t page = 0; page < pages; ++page) {
    const TokenRange range = PageTokens(*sequence, page);
    const std::span<const TokenId> tokens = sequence->Tokens(range, &scratch);
    node = index->Find(node, {.key = chain.key(page), .scope = chain.scope(page), .tokens = tokens});
    FARSPAN_CHECK(node != nullptr, "page=", page);
    if (Inside(range, dropped)) {
      sequence->block_table().AppendDropped();
      chain.Close();
    } else {
      sequence->block_table().Append(index->Attach(node));
    }
  }
  chain.SetPublished(pages, node);
  sequence->SkipTo(end_token);
}

void TouchPages(const Sequence& sequence, PrefixIndex* index) {
  // A closed chain may have pages that nobody holds any more, and then no place in the index.
  if (sequence.chain().publishes()) index->TouchChain(sequence.chain().last());
}

void PublishPages(PrefixIndex* index, Sequence* sequence) {
  PageChain& chain = sequence->chain();
  const int64_t full_pages = sequence->computed() / chain.page_tokens();
  std::vector<TokenId> scratch;
  while (chain.publishes() && chain.num_published() < full_pages) {
    const int64_t page = chain.num_published();
    const std::span<const TokenId> tokens = sequence->Tokens(PageTokens(*sequence, page), &scratch);
    PageRef held = sequence->block_table().pages()[static_cast<size_t>(page)].Share();
    const PageId before = held.page();
    const PrefixIndex::Node* node = index->Publish(
        chain.last(), {.key = chain.Key(page, tokens), .scope = chain.scope(page), .tokens = tokens}, &held);
    if (node == nullptr) return chain.Close();
    if (held.page() != before) sequence->block_table().Replace(page, std::move(held));
    chain.SetPublished(page + 1, node);
  }
}

}  // namespace farspan
