// SPDX-License-Identifier: Apache-2.0
#include "engine/text/literal_tokens.h"

namespace farspan {
namespace {

uint64_t EdgeKey(uint32_t parent, char byte) { return uint64_t{parent} << 8 | static_cast<uint8_t>(byte); }

}  // namespace

void LiteralTokens::Add(std::string_view text, TokenId id) {
  NodeId node = kRoot;
  for (const char byte : text) {
    const auto [edge, inserted] = edges_.try_emplace(EdgeKey(node, byte), num_nodes_);
    if (inserted) ++num_nodes_;
    node = edge->second;
  }
  ids_.emplace(node, id);
}

std::optional<LiteralTokens::Match> LiteralTokens::Find(std::string_view text, size_t offset) const {
  if (ids_.empty()) return std::nullopt;
  for (; offset < text.size(); ++offset) {
    std::optional<Match> longest;
    NodeId node = kRoot;
    for (size_t end = offset; end < text.size(); ++end) {
      const auto edge = edges_.find(EdgeKey(node, text[end]));
      if (edge == edges_.end()) break;
      node = edge->second;
      if (const auto id = ids_.find(node); id != ids_.end()) longest = Match{offset, end + 1 - offset, id->second};
    }
    if (longest.has_value()) return longest;
  }
  return std::nullopt;
}

}  // namespace farspan
