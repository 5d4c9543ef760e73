// SPDX-License-Identifier: Apache-2.0
// The tokens that stand for a fixed piece of plain text (a run of spaces, a tag): found before words are cut.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "absl/container/flat_hash_map.h"
#include "engine/base/ids.h"

namespace farspan {

inline constexpr size_t kMaxLiteralBytes = 256;

// Immutable once filled; then thread-safe.
class LiteralTokens {
 public:
  struct Match {
    size_t offset;
    size_t num_bytes;
    TokenId id;
  };

  // `text` has 1 to kMaxLiteralBytes bytes and was not added before.
  void Add(std::string_view text, TokenId id);

  // The first one at or after `offset`; where several begin there, the longest. Cost: at most kMaxLiteralBytes steps
  // for each byte passed over.
  std::optional<Match> Find(std::string_view text, size_t offset) const;

 private:
  using NodeId = uint32_t;
  static constexpr NodeId kRoot = 0;

  // A trie: edges by parent << 8 | byte.
  absl::flat_hash_map<uint64_t, NodeId> edges_;
  absl::flat_hash_map<NodeId, TokenId> ids_;
  NodeId num_nodes_ = 1;
};

}  // namespace farspan
