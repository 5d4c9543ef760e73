// SPDX-License-Identifier: Apache-2.0
// Builds one line of the log: a flat JSON object.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace farspan {

// `text` as a JSON string with its quotes: control characters escaped, bytes that are no UTF-8 replaced.
std::string JsonString(absl::string_view text);

// A value; keys are ours and need no escaping.
class JsonLine {
 public:
  // `event` names what happened, from a closed set.
  explicit JsonLine(absl::string_view event) { Add("event", event); }

  JsonLine& Add(absl::string_view key, absl::string_view value);
  JsonLine& Add(absl::string_view key, const char* value) { return Add(key, absl::string_view(value)); }
  JsonLine& Add(absl::string_view key, const std::string& value) { return Add(key, absl::string_view(value)); }
  JsonLine& Add(absl::string_view key, int64_t value);
  JsonLine& Add(absl::string_view key, double value);

  // `"event":"request","code":"OK"`: without the braces.
  const std::string& fields() const { return fields_; }

 private:
  std::string fields_;
};

}  // namespace farspan
