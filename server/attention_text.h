// SPDX-License-Identifier: Apache-2.0
// An attention policy as people write it: protobuf text form, or a policy's bare name for its defaults.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "farspan/v1/attention.pb.h"

namespace farspan {

// `window { sink_tokens: 4 }` or `window`. INVALID_ARGUMENT says what is wrong and lists the known policies.
absl::StatusOr<v1::AttentionSpec> ParseAttentionText(absl::string_view text);

// One line.
std::string AttentionText(const v1::AttentionSpec& spec);

}  // namespace farspan
