// SPDX-License-Identifier: Apache-2.0
#include "engine/text/stop_matcher.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/text/utf8.h"

namespace farspan {
namespace {

std::vector<uint16_t> BordersOf(std::string_view text) {
  std::vector<uint16_t> borders(text.size(), 0);
  for (size_t i = 1; i < text.size(); ++i) {
    uint16_t border = borders[i - 1];
    while (border > 0 && text[border] != text[i]) border = borders[border - 1];
    borders[i] = text[border] == text[i] ? static_cast<uint16_t>(border + 1) : border;
  }
  return borders;
}

}  // namespace

absl::StatusOr<StopMatcher> StopMatcher::Create(std::vector<std::string> stop_strings, bool include_stop_string) {
  if (stop_strings.size() > kMaxStopStrings) {
    return absl::InvalidArgumentError(
        absl::StrCat("stop_strings: expected at most ", kMaxStopStrings, "; got ", stop_strings.size()));
  }
  for (size_t i = 0; i < stop_strings.size(); ++i) {
    const std::string& stop_string = stop_strings[i];
    if (stop_string.empty() || stop_string.size() > kMaxStopStringBytes) {
      return absl::InvalidArgumentError(absl::StrCat("stop_strings[", i, "]: expected 1 to ", kMaxStopStringBytes,
                                                     " bytes; got ", stop_string.size()));
    }
    if (const std::optional<size_t> offset = FindInvalidUtf8(stop_string); offset.has_value()) {
      return absl::InvalidArgumentError(absl::StrCat("stop_strings[", i, "]: invalid UTF-8 at byte ", *offset));
    }
  }
  return StopMatcher(std::move(stop_strings), include_stop_string);
}

StopMatcher::StopMatcher(std::vector<std::string> stop_strings, bool include_stop_string)
    : stop_strings_(std::move(stop_strings)),
      include_stop_string_(include_stop_string),
      lengths_(stop_strings_.size(), 0) {
  for (const std::string& stop_string : stop_strings_) borders_.push_back(BordersOf(stop_string));
}

size_t StopMatcher::Advance(size_t index, size_t length, char byte) const {
  const std::string& stop_string = stop_strings_[index];
  if (length == stop_string.size()) length = borders_[index][length - 1];
  while (length > 0 && stop_string[length] != byte) length = borders_[index][length - 1];
  return stop_string[length] == byte ? length + 1 : 0;
}

StopMatcher::Piece StopMatcher::Push(std::string_view text, bool may_stop) {
  if (stopped_) return {};
  for (size_t end = 0; end < text.size(); ++end) {
    std::optional<size_t> matched;
    for (size_t i = 0; i < stop_strings_.size(); ++i) {
      lengths_[i] = Advance(i, lengths_[i], text[end]);
      const bool complete = lengths_[i] == stop_strings_[i].size();
      if (complete && may_stop && (!matched.has_value() || lengths_[i] > lengths_[*matched])) matched = i;
    }
    if (!matched.has_value()) continue;
    std::string before = std::move(held_);
    before.append(text.substr(0, end + 1));
    if (!include_stop_string_) before.resize(before.size() - stop_strings_[*matched].size());
    held_.clear();
    stopped_ = true;
    return {std::move(before), matched};
  }
  // A stop string that was passed over is no longer the beginning of one, but its border is.
  size_t held_bytes = 0;
  for (size_t i = 0; i < stop_strings_.size(); ++i) {
    if (lengths_[i] == stop_strings_[i].size()) lengths_[i] = borders_[i][lengths_[i] - 1];
    held_bytes = std::max(held_bytes, lengths_[i]);
  }
  std::string ready = std::move(held_);
  ready.append(text);
  held_ = ready.substr(ready.size() - held_bytes);
  ready.resize(ready.size() - held_bytes);
  return {std::move(ready), std::nullopt};
}

std::string StopMatcher::Flush() {
  std::fill(lengths_.begin(), lengths_.end(), 0);
  return std::exchange(held_, {});
}

}  // namespace farspan
