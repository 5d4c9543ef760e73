// SPDX-License-Identifier: Apache-2.0
#include "engine/kv/prefix_index.h"

#include <algorithm>
#include <utility>

#include "engine/base/check.h"

namespace farspan {

class PrefixIndex::Node {
 public:
  PrefixKey key;
  PrefixScope scope;
  std::vector<TokenId> tokens;
  Node* parent = nullptr;
  std::vector<Node*> children;
  PageRef page;
  NodeList::iterator place;

  bool Holds(const Node* wanted_parent, const PrefixPage& wanted) const {
    return parent == wanted_parent && *scope == *wanted.scope && std::ranges::equal(tokens, wanted.tokens);
  }
};

PrefixIndex::PrefixIndex(PagePool* pool) : pool_(pool) {}

PrefixIndex::~PrefixIndex() { Clear(); }

const PrefixIndex::Node* PrefixIndex::Find(const Node* parent, const PrefixPage& page) const {
  const auto found = by_key_.find(page.key);
  if (found == by_key_.end() || !found->second->Holds(parent, page)) return nullptr;
  return found->second;
}

PageId PrefixIndex::page(const Node& node) const { return node.page.page(); }

PageRef PrefixIndex::Attach(const Node* node) {
  Touch(node);
  return node->page.Share();
}

const PrefixIndex::Node* PrefixIndex::Publish(const Node* parent, const PrefixPage& content, PageRef* page) {
  const auto found = by_key_.find(content.key);
  if (found != by_key_.end()) {
    // A colliding key leaves the page uncached: nothing is ever found under it but its first content.
    if (!found->second->Holds(parent, content)) return nullptr;
    if (found->second->page.page() != page->page()) *page = found->second->page.Share();
    Touch(found->second);
    return found->second;
  }
  auto node = std::make_unique<Node>();
  node->key = content.key;
  node->scope = content.scope;
  node->tokens.assign(content.tokens.begin(), content.tokens.end());
  node->parent = const_cast<Node*>(parent);
  node->page = page->Share();
  pool_->SetCached(page->page(), true);
  Node* raw = node.get();
  if (raw->parent != nullptr) raw->parent->children.push_back(raw);
  raw->place = nodes_.insert(nodes_.end(), std::move(node));
  by_key_.emplace(raw->key, raw);
  return raw;
}

// From its end on, so that no page comes up for eviction before those that follow it.
void PrefixIndex::TouchChain(const Node* last) {
  for (const Node* node = last; node != nullptr; node = node->parent) Touch(node);
}

bool PrefixIndex::EvictOne() {
  if (pool_->num_cached() == 0) return false;
  const auto held_by_cache_alone = [this](const Node* node) { return pool_->held_by_cache_alone(node->page.page()); };
  // Pages in use come behind all others; a scan moves those that it meets there, so that the next need not.
  for (int64_t remaining = num_pages(); !held_by_cache_alone(nodes_.front().get()); --remaining) {
    FARSPAN_CHECK(remaining > 0, "num_cached=", pool_->num_cached());
    Touch(nodes_.front().get());
  }
  Node* victim = nodes_.front().get();
  while (true) {
    const auto child = std::find_if(victim->children.begin(), victim->children.end(), held_by_cache_alone);
    if (child == victim->children.end()) break;
    victim = *child;
  }
  Remove(victim);
  return true;
}

void PrefixIndex::Clear() {
  while (!nodes_.empty()) Remove(nodes_.front().get());
}

void PrefixIndex::Touch(const Node* node) { nodes_.splice(nodes_.end(), nodes_, node->place); }

// Pages that follow can no longer be found once their parent has gone: they leave with it.
void PrefixIndex::Remove(Node* node) {
  std::vector<Node*> doomed = {node};
  for (size_t i = 0; i < doomed.size(); ++i) {
    doomed.insert(doomed.end(), doomed[i]->children.begin(), doomed[i]->children.end());
  }
  if (node->parent != nullptr) std::erase(node->parent->children, node);
  for (Node* gone : doomed) {
    pool_->SetCached(gone->page.page(), false);
    by_key_.erase(gone->key);
    nodes_.erase(gone->place);
  }
}

}  // namespace farspan
