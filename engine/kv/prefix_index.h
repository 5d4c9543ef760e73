// SPDX-License-Identifier: Apache-2.0
// PrefixIndex: full KV pages that outlive their request, found again by what they hold. Chains of pages from the start
// of a sequence; a page is handed out only where its whole chain, its tokens and its scope are equal.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "engine/kv/page_pool.h"
#include "engine/kv/prefix_key.h"

namespace farspan {

// One page of a chain as a caller knows it.
struct PrefixPage {
  PrefixKey key;
  PrefixScope scope;
  std::span<const TokenId> tokens;
};

// Engine thread only. Holds one reference to each of its pages; the pool outlives it.
class PrefixIndex {
 public:
  // A cached page's place in its chain. Stays valid while a caller holds the pages of the whole chain up to it.
  class Node;

  explicit PrefixIndex(PagePool* pool);
  ~PrefixIndex();
  PrefixIndex(const PrefixIndex&) = delete;
  PrefixIndex& operator=(const PrefixIndex&) = delete;

  // The page that follows `parent` (null for the first of a chain), or null.
  const Node* Find(const Node* parent, const PrefixPage& page) const;
  PageId page(const Node& node) const;

  // Another reference to the node's page, which counts as used now.
  PageRef Attach(const Node* node);

  // Caches `page`, full and never written again, after `parent`, whose page the caller holds. Where an equal page is
  // cached already, `*page` becomes a reference to that one. Returns the place of the page.
  const Node* Publish(const Node* parent, const PrefixPage& content, PageRef* page);

  // The chain that ends at `last` was in use until now.
  void TouchChain(const Node* last);

  // Returns at least one page that the cache alone holds to the pool: of the chain that went out of use first, the page
  // that ends it. Pages that could not be found any more leave with it. False when there is none.
  bool EvictOne();
  void Clear();

  int64_t num_pages() const { return static_cast<int64_t>(nodes_.size()); }

 private:
  using NodeList = std::list<std::unique_ptr<Node>>;
  void Touch(const Node* node);
  void Remove(Node* node);

  PagePool* const pool_;
  absl::flat_hash_map<PrefixKey, Node*> by_key_;
  NodeList nodes_;  // least recently used first
};

}  // namespace farspan
