// SPDX-License-Identifier: Apache-2.0
#include "server/comparison_table.h"

#include <algorithm>
#include <numeric>

namespace farspan {

std::optional<int64_t> FirstDivergence(std::span<const TokenId> tokens, std::span<const TokenId> reference) {
  const auto [ours, theirs] = std::mismatch(tokens.begin(), tokens.end(), reference.begin(), reference.end());
  if (ours == tokens.end() && theirs == reference.end()) return std::nullopt;
  return ours - tokens.begin();
}

double TokenAgreement(std::span<const TokenId> tokens, std::span<const TokenId> reference) {
  const size_t longer = std::max(tokens.size(), reference.size());
  if (longer == 0) return 1;
  size_t equal = 0;
  for (size_t i = 0; i < std::min(tokens.size(), reference.size()); ++i) equal += tokens[i] == reference[i] ? 1 : 0;
  return static_cast<double>(equal) / static_cast<double>(longer);
}

double Mean(std::span<const double> values) {
  if (values.empty()) return 0;
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

}  // namespace farspan
