// SPDX-License-Identifier: Apache-2.0
// Finds the first stop string in a text that comes in pieces, and holds back what may still become one.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace farspan {

inline constexpr size_t kMaxStopStrings = 16;
inline constexpr size_t kMaxStopStringBytes = 256;

// Owned by one request; not thread-safe. The answer does not depend on how the text was cut into pieces: the stop
// string that is complete first wins; of several that are complete at the same byte the longest, which is the one that
// began first; of equal ones the first of the list. Cost: one step a byte for each stop string.
class StopMatcher {
 public:
  struct Piece {
    std::string text;               // goes to the reader now
    std::optional<size_t> matched;  // index of the stop string that ended the text
  };

  // INVALID_ARGUMENT names the one that is empty, too long or not UTF-8. An empty list never matches.
  // `include_stop_string` leaves the one that matched at the end of the text.
  static absl::StatusOr<StopMatcher> Create(std::vector<std::string> stop_strings, bool include_stop_string = false);

  // Adds to the text. A stop string that is complete within a piece pushed with `may_stop` false is passed over (the
  // request must go on for now); one that begins there and ends later counts. After a match every piece is empty.
  Piece Push(std::string_view text, bool may_stop = true);

  // Ends the text: what was held back.
  std::string Flush();

  const std::vector<std::string>& stop_strings() const { return stop_strings_; }

 private:
  StopMatcher(std::vector<std::string> stop_strings, bool include_stop_string);

  // Length of the longest beginning of stop string `index` that the text, after `byte`, ends with.
  size_t Advance(size_t index, size_t length, char byte) const;

  std::vector<std::string> stop_strings_;
  bool include_stop_string_;
  std::vector<std::vector<uint16_t>> borders_;  // [index][n - 1]: longest proper border of the first n bytes
  std::vector<size_t> lengths_;                 // [index]: matched so far
  std::string held_;                            // as long as the greatest of lengths_
  bool stopped_ = false;
};

}  // namespace farspan
