// SPDX-License-Identifier: Apache-2.0
// The merges of a byte-pair encoding and their application to one word.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "engine/base/ids.h"

namespace farspan {

// Immutable once filled; then thread-safe.
class MergeTable {
 public:
  // The next merge: a later one has a higher rank. False, and nothing is added, if the pair has a merge already.
  bool Add(TokenId left, TokenId right, TokenId product);

  // Merges neighbours of `word` in place until no pair has a merge: the lowest rank first, at equal rank the leftmost.
  // Returns the number of pairs that were looked up, less than three for each symbol. Cost: O(n log n).
  int64_t Apply(std::vector<TokenId>& word) const;

 private:
  class LongWord;
  struct Merge {
    int32_t rank;
    TokenId product;
  };

  const Merge* Find(TokenId left, TokenId right) const;
  int64_t ApplyToShortWord(std::vector<TokenId>& word) const;

  absl::flat_hash_map<uint64_t, Merge> merges_;  // by left << 32 | right
};

}  // namespace farspan
