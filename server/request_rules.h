// SPDX-License-Identifier: Apache-2.0
// Everything about a request message that can be said without a model.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <google/protobuf/message.h>

#include "engine/attention/field_rules.h"

namespace farspan {

// The violations of CheckFieldRules, and: bytes fields that are not UTF-8, oneofs without a value, unless a member has
// a default. Unknown fields are none. Paths begin at `message`.
std::vector<FieldViolation> CheckRequest(const google::protobuf::Message& message);

// "spec.sampling.top_p: must be at most 1, got 7"
std::string Sentence(const FieldViolation& violation);

}  // namespace farspan
