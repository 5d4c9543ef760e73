// SPDX-License-Identifier: Apache-2.0
#include "server/json_line.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/text/utf8.h"

namespace farspan {

std::string JsonString(absl::string_view text) {
  std::string valid;
  AppendUtf8Lossy(std::string(text), /*final=*/true, valid);
  std::string json = "\"";
  for (const char c : valid) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      json += '\\';
      json += c;
    } else if (byte < 0x20 || byte == 0x7f) {
      absl::StrAppendFormat(&json, "\\u%04x", byte);
    } else {
      json += c;
    }
  }
  return json + "\"";
}

JsonLine& JsonLine::Add(absl::string_view key, absl::string_view value) {
  absl::StrAppend(&fields_, fields_.empty() ? "" : ",", "\"", key, "\":", JsonString(value));
  return *this;
}

JsonLine& JsonLine::Add(absl::string_view key, int64_t value) {
  absl::StrAppend(&fields_, fields_.empty() ? "" : ",", "\"", key, "\":", value);
  return *this;
}

JsonLine& JsonLine::Add(absl::string_view key, double value) {
  absl::StrAppendFormat(&fields_, "%s\"%s\":", fields_.empty() ? "" : ",", key);
  absl::StrAppend(&fields_, std::isfinite(value) ? absl::StrFormat("%.9g", value) : "null");
  return *this;
}

}  // namespace farspan
