// SPDX-License-Identifier: Apache-2.0
// The numbers of a comparison's table, from what its runs reported.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "engine/base/ids.h"

namespace farspan {

// Index of the first token that differs; where one output is the start of the other, the shorter one's length; nullopt
// when they are equal.
std::optional<int64_t> FirstDivergence(std::span<const TokenId> tokens, std::span<const TokenId> reference);

// Share of positions, over the longer output, that hold the reference's token; 1 when both are empty.
double TokenAgreement(std::span<const TokenId> tokens, std::span<const TokenId> reference);

// 0 for an empty list.
double Mean(std::span<const double> values);

}  // namespace farspan
