// SPDX-License-Identifier: Apache-2.0
// The first line of the input holds the stop strings, parted by tabs; the other lines are the pieces of the text. The
// outcome is that of a search of the whole text, and no code point is cut where the pieces cut none.
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_split.h"
#include "engine/base/check.h"
#include "engine/text/stop_matcher.h"
#include "engine/text/utf8.h"

namespace farspan {
namespace {

struct Outcome {
  std::string text;
  std::optional<size_t> matched;
  friend bool operator==(const Outcome&, const Outcome&) = default;
};

// The smallest end, then the longest, then the first of the list.
Outcome FindNaively(const std::string& text, const std::vector<std::string>& stop_strings) {
  for (size_t end = 1; end <= text.size(); ++end) {
    std::optional<size_t> best;
    for (size_t i = 0; i < stop_strings.size(); ++i) {
      const size_t size = stop_strings[i].size();
      if (size > end || text.compare(end - size, size, stop_strings[i]) != 0) continue;
      if (!best.has_value() || size > stop_strings[*best].size()) best = i;
    }
    if (best.has_value()) return {text.substr(0, end - stop_strings[*best].size()), best};
  }
  return {text, std::nullopt};
}

void CheckInput(const std::string& input) {
  const std::vector<std::string> lines = absl::StrSplit(input, '\n');
  const std::vector<std::string> stop_strings = absl::StrSplit(lines[0], '\t', absl::SkipEmpty());
  absl::StatusOr<StopMatcher> matcher = StopMatcher::Create(stop_strings);
  if (!matcher.ok()) return;
  std::string whole;
  Outcome outcome;
  bool pieces_are_valid = true;
  for (size_t i = 1; i < lines.size(); ++i) {
    whole += lines[i];
    pieces_are_valid = pieces_are_valid && !FindInvalidUtf8(lines[i]).has_value();
    const StopMatcher::Piece piece = matcher->Push(lines[i]);
    FARSPAN_CHECK(!pieces_are_valid || !FindInvalidUtf8(piece.text).has_value());
    outcome.text += piece.text;
    if (piece.matched.has_value()) outcome.matched = piece.matched;
  }
  outcome.text += matcher->Flush();
  FARSPAN_CHECK(outcome == FindNaively(whole, stop_strings));
}

}  // namespace
}  // namespace farspan

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  farspan::CheckInput(std::string(reinterpret_cast<const char*>(data), size));
  return 0;
}
