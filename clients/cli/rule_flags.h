// SPDX-License-Identifier: Apache-2.0
// Flags made from the fields of a message and their (farspan.v1.rule) options, which also say what a value may be.
#pragma once

#include <google/protobuf/message.h>

#include <string>

#include "absl/status/status.h"
#include "clients/cli/flag_set.h"

namespace farspan::cli {

// Adds a flag for every field of `message` that is a value: its name with hyphens, a switch for a bool, seconds for a
// google.protobuf.Duration, a repeated flag for a repeated field. Other messages have no flag. Parsing writes into
// `message`, which must outlive the set.
void AddRuleFlags(google::protobuf::Message* message, const std::string& group, FlagSet* flags);

// Every value set in `message`, in messages inside it too, against its rule. The first that breaks one is
// INVALID_ARGUMENT "path: rule, got X".
absl::Status CheckRules(const google::protobuf::Message& message);

}  // namespace farspan::cli
