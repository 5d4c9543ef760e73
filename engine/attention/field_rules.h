// SPDX-License-Identifier: Apache-2.0
// Applies the FieldRule options of the public messages: the one place where a declared range, default or size becomes a
// check. Works on any message by reflection.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "google/protobuf/message.h"

namespace farspan {

// One field that breaks its rule.
struct FieldViolation {
  std::string field;        // path from the message given: "stopping.stop_strings[3]"
  std::string description;  // the rule and the value got: "must be at least 1, got 0"
};

// A report ends once it holds this many violations (a few more where a nested message brings its own), so that a
// request cannot make its refusal large.
inline constexpr size_t kMaxFieldViolations = 16;

// Every violation in `message` and in the messages it holds: numbers and durations outside their range or not finite,
// unknown enum values, too many elements, texts too short or too long. Absent optional fields are fine. `path` prefixes
// each field.
std::vector<FieldViolation> CheckFieldRules(const google::protobuf::Message& message, const std::string& path = "");

// Sets each absent optional scalar and each unspecified enum to its declared default, in nested messages that are
// present too. Fields without a declared default stay absent, and so do the other members of a oneof that is set.
void ApplyDefaults(google::protobuf::Message* message);

// `text` cut to 64 bytes, quotes and control bytes escaped: fit for an error message.
std::string ClipForMessage(std::string_view text);

// INVALID_ARGUMENT "<field>: <description>" of the first violation; OK when there is none.
absl::Status FirstViolation(const std::vector<FieldViolation>& violations);

}  // namespace farspan
