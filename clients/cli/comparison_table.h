// SPDX-License-Identifier: Apache-2.0
// The result of a comparison for people.
#pragma once

#include <optional>
#include <string>

#include "farspan/v1/comparison.pb.h"

namespace farspan::cli {

// At most `columns` wide where that can be done: texts are clipped, and where no room is left for them they stand below
// the table; a table that is still too wide is turned on its side. With `find` a column says whether the text holds it.
std::string ComparisonTable(const v1::ComparisonFinished& comparison, const std::optional<std::string>& find,
                            int columns);

bool Found(const v1::ComparisonRow& row, const std::string& find);

}  // namespace farspan::cli
