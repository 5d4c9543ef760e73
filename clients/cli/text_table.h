// SPDX-License-Identifier: Apache-2.0
// A table of plain text, its columns as wide as their widest cell.
#pragma once

#include <string>
#include <vector>

namespace farspan::cli {

struct TextTable {
  std::vector<std::string> header;
  std::vector<std::vector<std::string>> rows;  // each as long as the header
};

// Two spaces between columns; a rule under the header. The first column is set left, numbers right. Cells must hold no
// line ends.
std::string RenderTable(const TextTable& table);

// Columns of the widest line of a rendered text.
int RenderedWidth(const std::string& rendered);

// The header becomes the first column, each row a column.
TextTable Transposed(const TextTable& table);

}  // namespace farspan::cli
