// SPDX-License-Identifier: Apache-2.0
// What sequences and the prefix cache do to each other: finding, attaching and publishing chains of full pages.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/kv/page_pool.h"
#include "engine/kv/prefix_index.h"
#include "engine/sched/sequence.h"

namespace farspan {

// The cached chain that a sequence without pages could begin with.
struct PrefixMatch {
  int64_t pages = 0;         // a multiple of these tokens need not be computed; at least one token is left to compute
  std::vector<PageId> held;  // pages that it would hold: without those that its policy has dropped by then
};

// Costs a hash lookup a page and a comparison of its tokens.
PrefixMatch FindPrefix(const Sequence& sequence, const PrefixIndex& index);

// Lets the sequence begin with the first `pages` of its cached chain, which FindPrefix has found.
void AttachPrefix(int64_t pages, PrefixIndex* index, Sequence* sequence);

// The sequence's pages in the cache were in use until now; before it lets them go.
void TouchPages(const Sequence& sequence, PrefixIndex* index);

// Publishes the pages that are full by now and never written again. A page whose content is cached already is replaced
// by the cached one.
void PublishPages(PrefixIndex* index, Sequence* sequence);

}  // namespace farspan
