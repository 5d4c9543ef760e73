// SPDX-License-Identifier: Apache-2.0
// The one list of the server's flags: parsing, help, --print-config and GetServerInfo are all read from it.
#pragma once

#include <functional>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "server/config.h"

namespace farspan {

// Immutable.
struct Flag {
  absl::string_view name;        // with hyphens; the environment mirror is FARSPAN_ and the name in capitals
  absl::string_view value_name;  // "PORT"; empty for a switch
  std::string doc;               // one sentence, rule included
  // Sets the field; the message of a failure is the rule alone: "must be a whole number from 0 to 65535".
  std::function<absl::Status(absl::string_view value, ServerConfig* config)> set;
  std::function<std::string(const ServerConfig& config)> show;

  bool is_switch() const { return value_name.empty(); }
};

std::span<const Flag> FlagTable();

// By name, underscores taken as hyphens; null when there is none.
const Flag* FindFlag(absl::string_view name);

// The name closest to a misspelt one; empty when none is close.
absl::string_view ClosestFlagName(absl::string_view name);

}  // namespace farspan
