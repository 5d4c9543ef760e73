// SPDX-License-Identifier: Apache-2.0
// Attention policies as a person writes and reads them.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "farspan/v1/attention.pb.h"

namespace farspan::cli {

// Protobuf text format, "window { sink_tokens: 4 }", or a policy's bare name, "dense". INVALID_ARGUMENT says what is
// wrong and which policies there are.
absl::StatusOr<v1::AttentionSpec> ParseAttention(const std::string& text);

// The policy's name and, in braces, the options that differ from their defaults: "window{window_tokens=64}".
std::string AttentionLabel(const v1::AttentionSpec& attention);

// One line of help.
std::string AttentionSyntax();

}  // namespace farspan::cli
