// SPDX-License-Identifier: Apache-2.0
#include "tests/simulation/pages_machine.h"

#include <optional>
#include <utility>

#include "engine/base/check.h"

namespace farspan {
namespace {

// Few, so that sequences often hold equal tokens.
constexpr int64_t kNumTokens = 2;

}  // namespace

PagesMachine::PagesMachine(Choices* choices)
    : choices_(choices), pool_(choices->Between(4, 24)), contents_(static_cast<size_t>(pool_.num_pages())) {
  for (size_t i = 0; i < scopes_.size(); ++i) {
    scopes_[i] = MakePrefixScope({.tenant = "tenant", .model_id = "model", .fingerprint = KvFingerprint{i}});
  }
  for (Sequence& sequence : sequences_) Release(&sequence);
}

void PagesMachine::RunOneStep() {
  Sequence& sequence = sequences_[static_cast<size_t>(choices_->Below(kNumSequences))];
  switch (choices_->Below(12)) {
    case 0:
    case 1:
    case 2:
    case 3:
      return Grow(&sequence);
    case 4:
    case 5:
      return Publish(&sequence);
    case 6:
    case 7:
      Release(&sequence);
      return Attach(&sequence);
    case 8: {
      const Sequence& other = sequences_[static_cast<size_t>(choices_->Below(kNumSequences))];
      return &other == &sequence ? Evict() : Fork(&sequence, other);
    }
    case 9:
      return Drop(&sequence);
    case 10:
      return Evict();
    default:
      return Release(&sequence);
  }
}

bool PagesMachine::TakeInto(PageRef* page) {
  if (pool_.num_free() == 0 && !index_.EvictOne()) return false;
  std::optional<PageRef> taken = pool_.Take();
  FARSPAN_CHECK(taken.has_value(), "an eviction freed nothing");
  FARSPAN_CHECK(pool_.reference_count(taken->page()) == 1);
  ContentOf(taken->page()) = {};
  *page = *std::move(taken);
  return true;
}

void PagesMachine::Grow(Sequence* sequence) {
  for (int64_t i = choices_->Between(1, 2 * kPageTokens); i > 0; --i) {
    const auto position = static_cast<int64_t>(sequence->tokens.size());
    if (position >= kMaxTokens) return;
    if (sequence->table.PagesMissing(position + 1) > 0) {
      PageRef page;
      if (!TakeInto(&page)) return;
      sequence->table.Append(std::move(page));
    }
    if (!sequence->table.resident(position)) return;
    const PageId shared = sequence->table.page_of(position);
    if (pool_.reference_count(shared) > 1) {
      PageRef own;
      if (!TakeInto(&own)) return;
      ContentOf(own.page()) = ContentOf(shared);
      sequence->table.Replace(position / kPageTokens, std::move(own));
    }
    Write(sequence, static_cast<TokenId>(choices_->Below(kNumTokens)));
  }
}

void PagesMachine::Write(Sequence* sequence, TokenId token) {
  const auto position = static_cast<int64_t>(sequence->tokens.size());
  const PageId page = sequence->table.page_of(position);
  FARSPAN_CHECK(pool_.reference_count(page) == 1, "a page that others hold was about to be written");
  PageContent& content = ContentOf(page);
  content.tokens[static_cast<size_t>(position % kPageTokens)] = token;
  content.num_written = position % kPageTokens + 1;
  sequence->tokens.push_back(token);
}

std::vector<TokenId> PagesMachine::PageTokens(const Sequence& sequence, int64_t page) const {
  const auto begin = sequence.tokens.begin() + page * kPageTokens;
  return {begin, begin + kPageTokens};
}

PrefixKey PagesMachine::KeyOf(const Sequence& sequence, int64_t page) const {
  PrefixKey key{};
  for (int64_t i = 0; i <= page; ++i) key = MakePrefixKey(sequence.scope, key, PageTokens(sequence, i));
  return key;
}

void PagesMachine::Publish(Sequence* sequence) {
  const int64_t num_full = static_cast<int64_t>(sequence->tokens.size()) / kPageTokens;
  while (!sequence->closed && sequence->num_published < num_full) {
    const int64_t page = sequence->num_published;
    const std::vector<TokenId> tokens = PageTokens(*sequence, page);
    PageRef shared = sequence->table.pages()[static_cast<size_t>(page)].Share();
    const PrefixIndex::Node* node = index_.Publish(
        sequence->last, {.key = KeyOf(*sequence, page), .scope = sequence->scope, .tokens = tokens}, &shared);
    FARSPAN_CHECK(node != nullptr, "two contents have one key");
    sequence->table.Replace(page, std::move(shared));
    sequence->last = node;
    ++sequence->num_published;
  }
}

// Begins with the cached chain of tokens drawn as it goes.
void PagesMachine::Attach(Sequence* sequence) {
  while (static_cast<int64_t>(sequence->tokens.size()) + kPageTokens <= kMaxTokens) {
    const int64_t page = sequence->num_published;
    const size_t num_tokens = sequence->tokens.size();
    for (int64_t i = 0; i < kPageTokens; ++i) {
      sequence->tokens.push_back(static_cast<TokenId>(choices_->Below(kNumTokens)));
    }
    const std::vector<TokenId> tokens = PageTokens(*sequence, page);
    const PrefixIndex::Node* node =
        index_.Find(sequence->last, {.key = KeyOf(*sequence, page), .scope = sequence->scope, .tokens = tokens});
    if (node == nullptr) {
      sequence->tokens.resize(num_tokens);
      return;
    }
    sequence->table.Append(index_.Attach(node));
    sequence->last = node;
    ++sequence->num_published;
  }
}

void PagesMachine::Fork(Sequence* sequence, const Sequence& other) {
  Release(sequence);
  sequence->scope = other.scope;
  const int64_t num_tokens = choices_->Between(0, static_cast<int64_t>(other.tokens.size()));
  sequence->table.ShareFrom(other.table, num_tokens);
  sequence->tokens.assign(other.tokens.begin(), other.tokens.begin() + num_tokens);
  // Its pages are published by the other, if at all.
  sequence->closed = true;
}

void PagesMachine::Drop(Sequence* sequence) {
  const int64_t begin = choices_->Below(kMaxTokens);
  const TokenRange range = {.begin = begin, .end = begin + choices_->Below(3 * kPageTokens)};
  if (range.end > static_cast<int64_t>(sequence->tokens.size())) return;
  if (sequence->table.Drop(range) > 0) sequence->closed = true;
}

void PagesMachine::Release(Sequence* sequence) {
  sequence->table.Clear();
  sequence->scope = scopes_[static_cast<size_t>(choices_->Below(std::ssize(scopes_)))];
  sequence->tokens.clear();
  sequence->num_published = 0;
  sequence->last = nullptr;
  sequence->closed = false;
}

void PagesMachine::Evict() {
  const int64_t num_cached = pool_.num_cached();
  const int64_t num_free = pool_.num_free();
  FARSPAN_CHECK(index_.EvictOne() == (num_cached > 0));
  FARSPAN_CHECK(num_cached == 0 || pool_.num_free() > num_free);
}

void PagesMachine::Check() const {
  std::vector<int32_t> holders(contents_.size(), 0);
  for (const Sequence& sequence : sequences_) {
    for (const PageRef& page : sequence.table.pages()) {
      if (page) ++holders[static_cast<size_t>(page.page())];
    }
    CheckContent(sequence);
  }
  int64_t num_used = 0;
  int64_t num_cached = 0;
  int64_t num_in_index = 0;
  for (size_t i = 0; i < holders.size(); ++i) {
    const auto page = static_cast<PageId>(i);
    FARSPAN_CHECK(pool_.num_holders(page) == holders[i], "page ", i, " has ", pool_.num_holders(page), " holders, ",
                  holders[i], " name it");
    const bool in_index = pool_.reference_count(page) > holders[i];
    num_used += holders[i] > 0 ? 1 : 0;
    num_cached += holders[i] == 0 && in_index ? 1 : 0;
    num_in_index += in_index ? 1 : 0;
    FARSPAN_CHECK(!in_index || ContentOf(page).num_written == kPageTokens, "page ", i, " is cached and not full");
  }
  FARSPAN_CHECK(num_used == pool_.num_used() && num_cached == pool_.num_cached() &&
                num_used + num_cached + pool_.num_free() == pool_.num_pages());
  FARSPAN_CHECK(num_in_index == index_.num_pages());
}

void PagesMachine::CheckContent(const Sequence& sequence) const {
  for (int64_t position = 0; position < static_cast<int64_t>(sequence.tokens.size()); ++position) {
    if (!sequence.table.resident(position)) continue;
    const PageContent& content = ContentOf(sequence.table.page_of(position));
    FARSPAN_CHECK(
        position % kPageTokens < content.num_written && content.tokens[static_cast<size_t>(position % kPageTokens)] ==
                                                            sequence.tokens[static_cast<size_t>(position)],
        "position ", position, " reads another token than was written");
  }
}

void PagesMachine::ReleaseAll() {
  for (Sequence& sequence : sequences_) Release(&sequence);
  FARSPAN_CHECK(pool_.num_used() == 0 && pool_.num_cached() + pool_.num_free() == pool_.num_pages());
  index_.Clear();
  FARSPAN_CHECK(pool_.num_free() == pool_.num_pages());
}

}  // namespace farspan
