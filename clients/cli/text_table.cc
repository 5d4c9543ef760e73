// SPDX-License-Identifier: Apache-2.0
#include "clients/cli/text_table.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "clients/cli/display_text.h"

namespace farspan::cli {
namespace {

bool IsNumber(const std::string& cell) {
  const size_t start = !cell.empty() && cell[0] == '-' ? 1 : 0;
  return cell == "-" || (cell.size() > start && absl::ascii_isdigit(static_cast<unsigned char>(cell[start])));
}

// Right where every cell is a number.
bool SetRight(const TextTable& table, size_t column) {
  return column > 0 &&
         std::all_of(table.rows.begin(), table.rows.end(), [&](const auto& row) { return IsNumber(row[column]); });
}

std::string Line(const std::vector<std::string>& cells, const std::vector<int>& widths,
                 const std::vector<bool>& right) {
  std::string line;
  for (size_t column = 0; column < cells.size(); ++column) {
    const std::string padding(static_cast<size_t>(widths[column] - DisplayWidth(cells[column])), ' ');
    absl::StrAppend(&line, column == 0 ? "" : "  ", right[column] ? padding : "", cells[column],
                    right[column] ? "" : padding);
  }
  absl::StripTrailingAsciiWhitespace(&line);
  return line + "\n";
}

}  // namespace

std::string RenderTable(const TextTable& table) {
  std::vector<int> widths;
  std::vector<bool> right;
  std::vector<std::string> rule;
  for (size_t column = 0; column < table.header.size(); ++column) {
    int width = DisplayWidth(table.header[column]);
    for (const auto& row : table.rows) width = std::max(width, DisplayWidth(row[column]));
    widths.push_back(width);
    right.push_back(SetRight(table, column));
    rule.emplace_back(static_cast<size_t>(width), '-');
  }
  std::string rendered = absl::StrCat(Line(table.header, widths, right), Line(rule, widths, right));
  for (const auto& row : table.rows) absl::StrAppend(&rendered, Line(row, widths, right));
  return rendered;
}

int RenderedWidth(const std::string& rendered) {
  int width = 0;
  for (const absl::string_view line : absl::StrSplit(rendered, '\n')) width = std::max(width, DisplayWidth(line));
  return width;
}

TextTable Transposed(const TextTable& table) {
  TextTable result;
  result.header.push_back(table.header.front());
  for (const auto& row : table.rows) result.header.push_back(row.front());
  for (size_t column = 1; column < table.header.size(); ++column) {
    std::vector<std::string> row{table.header[column]};
    for (const auto& source : table.rows) row.push_back(source[column]);
    result.rows.push_back(std::move(row));
  }
  return result;
}

}  // namespace farspan::cli
